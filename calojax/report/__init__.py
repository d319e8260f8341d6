"""Results of an evaluation for people and programs: tables, metrics.json, report.html."""

from calojax.report.results import Earlier, Model, Report, check, earlier, metrics, write_metrics
from calojax.report.tables import screen
from calojax.report.writer import PictureFormat, write

__all__ = [
    "Earlier",
    "Model",
    "PictureFormat",
    "Report",
    "check",
    "earlier",
    "metrics",
    "screen",
    "write",
    "write_metrics",
]
