"""Accuracy with power: methods on the same cached features, splits and seeds, with paired bootstrap intervals."""
