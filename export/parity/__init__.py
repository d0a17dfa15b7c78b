"""Parity of a bundle with the PyTorch model."""
