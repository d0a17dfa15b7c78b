"""Datasets on disk: class folders, CSV files, CoOp's layouts."""

from attri.train.data.dataset import Dataset, Picture
from attri.train.data.read import read_data, read_target

__all__ = ["Dataset", "Picture", "read_data", "read_target"]
