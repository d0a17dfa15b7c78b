"""Collected images in the formats of other tools, written and read: one module a format, and the table of all."""
