"""Parity of a bundle with the PyTorch model: images, gates, comparison, report."""
