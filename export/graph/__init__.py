"""The graphs that are traced, and their precision."""
