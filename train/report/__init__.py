"""The report of a run: plots and a sheet of clusters."""
