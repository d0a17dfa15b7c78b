"""Collect frames that are worth a look: which ones, how many, and where they go."""
