"""Benchmark protocols (base-to-novel, cross-dataset, domain generalization) and their tables."""
