"""Finished rows of a dataset: parts on a disk or in a bucket, and text that is joined of them."""
