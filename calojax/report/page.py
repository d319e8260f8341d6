"""One self-contained HTML page: sections of paragraphs, tables and pictures, for screen and print.

Nothing is fetched: pictures are data URIs, and the page's own security policy forbids the rest.
"""

import base64
import dataclasses
import re
from collections.abc import Sequence
from html import escape as escaped_html

from calojax.errors import printable
from calojax.report.table import Table


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG picture with its caption.

    Attributes:
      name: short name, of the file too.
      png: the file's contents.
      caption: what is seen, in a sentence or two.
      narrow: whether two fit side by side.
    """

    name: str
    png: bytes
    caption: str
    narrow: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """A headed part of the page.

    Attributes:
      title: the heading.
      parts: texts (paragraphs), tables and pictures in order.
    """

    title: str
    parts: tuple[str | Table | Picture, ...]


@dataclasses.dataclass(frozen=True)
class Tile:
    """A number to be seen first.

    Attributes:
      name: what it is.
      value: the number as text.
      note: what to compare it with.
    """

    name: str
    value: str
    note: str = ""


def html(
    title: str,
    subtitle: str,
    tiles: Sequence[Tile],
    sections: Sequence[Section],
    *,
    warnings: Sequence[str] = (),
) -> str:
    """The page as text; all texts are escaped.

    Args:
      title: the heading and the name of the browser's tab.
      subtitle: a line below it.
      tiles: the numbers to be seen first.
      sections: the contents, listed in a table of contents; those without parts are left out.
      warnings: what the reader must know before the numbers.
    """
    sections = [section for section in sections if section.parts]
    anchors = [f"section-{index}" for index in range(1, len(sections) + 1)]
    contents = "".join(
        f'<li><a href="#{anchor}">{escape(section.title)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    body = "".join(
        f'<section id="{anchor}"><h2>{escape(section.title)}</h2>{_parts(section.parts)}</section>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    numbers = "".join(
        f'<div class="tile"><span class="name">{escape(tile.name)}</span>'
        f'<span class="value">{escape(tile.value)}</span>'
        f'<span class="note">{escape(tile.note)}</span></div>'
        for tile in tiles
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body>"
        f'<header><h1>{escape(title)}</h1><p class="subtitle">{escape(subtitle)}</p></header>'
        + "".join(f'<p class="warning" role="note">{escape(text)}</p>' for text in warnings)
        + f'<nav aria-label="Contents"><ol>{contents}</ol></nav>'
        + (f'<div class="tiles">{numbers}</div>' if numbers else "")
        + f"<main>{body}</main></body></html>\n"
    )


def escape(text: str) -> str:
    """Text for HTML; characters that cannot be shown or encoded become escape codes."""
    return escaped_html(printable(text))


def _parts(parts: Sequence[str | Table | Picture]) -> str:
    pieces = []
    in_pair = False
    for part in parts:
        narrow = isinstance(part, Picture) and part.narrow
        if narrow != in_pair:
            pieces.append('<div class="pair">' if narrow else "</div>")
            in_pair = narrow
        if isinstance(part, Table):
            pieces.append(_table(part))
        elif isinstance(part, Picture):
            pieces.append(_picture(part))
        else:
            pieces.append(f"<p>{escape(part)}</p>")
    return "".join(pieces) + ("</div>" if in_pair else "")


def _picture(picture: Picture) -> str:
    width, height = _size(picture.png)
    data = base64.b64encode(picture.png).decode("ascii")
    summary = escape(re.sub(r"\s+", " ", picture.caption))
    return (
        f'<figure><img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'alt="{summary}"><figcaption>{escape(picture.caption)}</figcaption></figure>'
    )


def _table(table: Table) -> str:
    prose = [' class="prose"' if c in table.prose else "" for c in range(len(table.header))]
    head = "".join(
        f'<th scope="col"{kind}>{escape(cell)}</th>'
        for cell, kind in zip(table.header, prose, strict=True)
    )
    rows = "".join(
        ('<tr class="marked">' if index in table.marked else "<tr>")
        + f'<th scope="row">{escape(row[0])}</th>'
        + "".join(
            f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row[1:], prose[1:], strict=True)
        )
        + "</tr>"
        for index, row in enumerate(table.rows)
    )
    return (
        f'<div class="table"><p class="caption">{escape(table.caption)}</p><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header chunk (PNG specification, 11.2.2)."""
    if png[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG file")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


_CSS = """
:root { --ink: #1b1f24; --soft: #5b6570; --line: #d8dde3; --blue: #0072b2; --pale: #f3f6f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 32px 64px; max-width: 1240px; color: var(--ink);
  background: #fff; font: 15px/1.5 "Helvetica Neue", Helvetica, Arial, "Liberation Sans",
  sans-serif; }
h1 { font-size: 28px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 40px 0 12px; padding-bottom: 6px;
  border-bottom: 2px solid var(--blue); }
p { max-width: 80ch; margin: 8px 0; }
.subtitle { color: var(--soft); margin: 4px 0 16px; max-width: none; overflow-wrap: anywhere; }
a { color: var(--blue); text-decoration: none; }
a:hover { text-decoration: underline; }
nav ol { columns: 3; column-gap: 32px; margin: 0; padding: 12px 16px 12px 40px;
  background: var(--pale); border-radius: 6px; }
nav li { break-inside: avoid; }
.warning { max-width: none; margin: 8px 0; padding: 8px 14px; background: #fff6e0;
  border-left: 4px solid #d55e00; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin-top: 16px; }
.tile { border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; }
.tile span { display: block; }
.tile .name, .tile .note { color: var(--soft); font-size: 12.5px; }
.tile .value { font-size: 19px; font-weight: 600; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
.table { overflow-x: auto; margin: 16px 0 24px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
.caption { color: var(--soft); font-size: 13.5px; max-width: 100ch; }
th, td { padding: 4px 12px; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child { text-align: left; padding-left: 6px; }
.prose { text-align: left; white-space: normal; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tbody th { font-weight: normal; }
tbody tr:hover { background: var(--pale); }
tr.marked { background: #fff1e6; }
tr.marked th, tr.marked td { font-weight: 600; }
figure { margin: 16px 0 28px; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { color: var(--soft); font-size: 13.5px; margin: 8px auto 0; padding: 0 8px;
  max-width: 100ch; }
.pair { display: flex; flex-wrap: wrap; gap: 0 16px; }
.pair figure { flex: 0 1 calc(50% - 8px); margin-top: 8px; }
@media (max-width: 800px) { nav ol { columns: 1; }
  .pair figure { flex-basis: 100%; } }
@page { size: A4; margin: 12mm; }
@media print {
  body { padding: 0; max-width: none; font-size: 10pt; }
  h2, .caption { break-after: avoid; }
  figure, .tile, .table, tr { break-inside: avoid; }
  img { max-height: 235mm; width: auto; max-width: 100%; }
  .pair { display: block; }
  .pair figure { display: inline-block; width: 49%; vertical-align: top; }
  thead { display: table-header-group; }
  .table { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: 2px 4px; white-space: normal; }
  a { color: inherit; }
  tr.marked, nav ol, .warning { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
