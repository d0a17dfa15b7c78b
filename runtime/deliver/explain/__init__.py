"""Heat maps of results, as files."""
