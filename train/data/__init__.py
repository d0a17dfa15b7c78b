"""Datasets on disk: class folders, CSV files, CoOp's layouts."""

from attri.train.data.dataset import Dataset, LabelledImage
from attri.train.data.read import read_data, read_target

__all__ = ["Dataset", "LabelledImage", "read_data", "read_target"]
