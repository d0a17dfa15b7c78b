"""The report of a run: plots and a sheet of clusters."""

from attri.train.report.report import write_report
from attri.train.report.results import draw_figures, evaluate

__all__ = ["draw_figures", "evaluate", "write_report"]
