"""Helpers that know nothing of the rest: redaction, logging, files, signals."""
