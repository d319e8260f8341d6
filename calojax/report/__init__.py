"""What people read of an evaluation: a table on the screen, metrics.json and one page."""

from calojax.report.writer import Context, metrics, screen, tables, write

__all__ = ["Context", "metrics", "screen", "tables", "write"]
