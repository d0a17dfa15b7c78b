"""Datasets for attri-batch: files anywhere in parts, classified here, on Ray or on Daft, and written to be resumed."""
