"""The preview page and its HTTP server."""
