"""A table of texts: aligned columns on a screen, rows and cells on a page."""

import dataclasses
import textwrap
import unicodedata


@dataclasses.dataclass(frozen=True)
class Table:
    """Texts in rows and columns; the first column names the rows.

    Attributes:
      caption: what the table shows and what to keep in mind, a sentence or more.
      header: the columns' names, [c].
      rows: texts, each [c].
      marked: positions of rows that stand out.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"row {row} has not the {len(self.header)} cells of the header")

    def text(self) -> str:
        """The table in aligned plain text, the first column left, the others right; marked: *."""
        mark = 2 if self.marked else 0
        lines = [self.header, *self.rows]
        widths = [max(_width(line[c]) for line in lines) for c in range(len(self.header))]
        shown = []
        for index, line in enumerate(lines):
            sign = ("* " if index - 1 in self.marked else "  ")[:mark]
            first = line[0] + " " * (widths[0] - _width(line[0]))
            others = (
                " " * (width - _width(cell)) + cell
                for cell, width in zip(line[1:], widths[1:], strict=True)
            )
            shown.append((sign + "  ".join([first, *others])).rstrip())
        rule = "-" * (mark + sum(widths) + 2 * (len(widths) - 1))
        caption = textwrap.fill(self.caption, 100)
        return "\n".join([caption, rule, shown[0], rule, *shown[1:], rule])


def _width(text: str) -> int:
    """Columns that a text takes on a screen: combining marks none, wide characters two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
