"""What people read of an evaluation: a table on the screen, metrics.json and one page."""

from calojax.report.stored import Stored, check, prepare
from calojax.report.writer import Context, Kind, metrics, screen, tables, write, write_metrics

__all__ = [
    "Context",
    "Kind",
    "Stored",
    "check",
    "metrics",
    "prepare",
    "screen",
    "tables",
    "write",
    "write_metrics",
]
