"""The commands attri-run and attri-doctor."""
