"""A table of texts: aligned columns on a screen, rows and cells on a page."""

import dataclasses
import textwrap
import unicodedata

from calojax.errors import printable


@dataclasses.dataclass(frozen=True)
class Table:
    """Texts in rows and columns; the first column names the rows.

    Attributes:
      caption: what the table shows and what to keep in mind, a sentence or more.
      header: the columns' names, [c].
      rows: texts, each [c].
      marked: positions of rows that stand out.
      prose: positions of columns that hold words, written from the left as the first is; the
        others hold numbers, written to the right.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()
    prose: frozenset[int] = frozenset()

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"row {row} has not the {len(self.header)} cells of the header")

    def text(self) -> str:
        """The table in aligned plain text, without control characters; a star marks rows."""
        mark = 2 if self.marked else 0
        lines = [tuple(map(printable, line)) for line in (self.header, *self.rows)]
        widths = [max(_width(line[c]) for line in lines) for c in range(len(self.header))]
        shown = []
        for index, line in enumerate(lines):
            sign = ("* " if index - 1 in self.marked else "  ")[:mark]
            cells = (
                cell + pad if column in {0} | self.prose else pad + cell
                for column, cell in enumerate(line)
                for pad in [" " * (widths[column] - _width(cell))]
            )
            shown.append((sign + "  ".join(cells)).rstrip())
        rule = "-" * (mark + sum(widths) + 2 * (len(widths) - 1))
        caption = textwrap.fill(printable(self.caption), 100)
        return "\n".join([caption, rule, shown[0], rule, *shown[1:], rule])


def _width(text: str) -> int:
    """Columns that a text takes on a screen: combining marks none, wide characters two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
