"""Benchmark protocols (base-to-novel, cross-dataset, domain generalization) and their tables."""

from attri.train.evaluation.protocols import ProtocolSpec, run

__all__ = ["ProtocolSpec", "run"]
