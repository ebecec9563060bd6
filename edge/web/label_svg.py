"""The label drawn: one SVG of the width of a 62 mm tape, black on white, without a style, so any page may hold it.

The QR code leads to the dashboard. It is left out where nobody but the box itself could open that.
"""

from collections.abc import Callable, Iterator
from html import escape
from typing import Final

import segno

from edge.web.label import Label, columns, facts, wrapped

WIDTH: Final = 62.0
"""Millimetres, as are all lengths here."""
_MARGIN: Final = 3.0
_QUIET: Final = 4
"""Modules that stay white around a QR code (ISO/IEC 18004 9.1)."""
_QR: Final = 26.0
_TITLE: Final = 5.0
_WORD: Final = 2.5
_TEXT: Final = 3.2
_LINE: Final = 1.25
_MONO: Final = 0.62
_PLAIN: Final = 0.56
"""Widths of a column, as parts of the size of the letters."""
_MONO_FONT: Final = "DejaVu Sans Mono, Menlo, Consolas, monospace"
_FONT: Final = "DejaVu Sans, Noto Sans, Noto Sans CJK JP, Arial, sans-serif"


def drawing(label: Label, say: Callable[[str], str] = str) -> str:
    """Return the SVG element; ``say`` translates the words before each fact."""
    parts: list[str] = []
    y = _MARGIN
    for line in wrapped(label.name, int((WIDTH - 2 * _MARGIN) / (_TITLE * 0.66))):
        y += _TITLE
        parts.append(_text(_MARGIN, y, line, _TITLE, bold=True))
        y += _TITLE * 0.2
    y += 1.0
    top, side = y, 0.0
    if label.url:
        side = _QR + 1.0
        parts.append(_qr(label.url, WIDTH - _MARGIN - _QR, top))
    for word, lines in facts(label)[1:]:
        beside = side if y < top + _QR + _WORD else 0.0
        y += _WORD * _LINE
        parts.append(_text(_MARGIN, y, say(word), _WORD))
        for line in _broken(lines, WIDTH - 2 * _MARGIN - beside):
            y += _TEXT * _LINE
            parts.append(_text(_MARGIN, y, line, _TEXT, mono=True))
        y += 1.1
    height = max(y, top + (_QR if side else 0.0)) + _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:g}mm" height="{height:.1f}mm" '
        f'viewBox="0 0 {WIDTH:g} {height:.1f}" role="img" aria-label="{escape(label.name)}">'
        f'<rect width="{WIDTH:g}" height="{height:.1f}" fill="#fff"/>{"".join(parts)}</svg>'
    )


def terminal(url: str) -> Iterator[str]:
    """Give the lines of a QR code for ``url`` in half lines; what is white is drawn, for most terminals are dark."""
    rows = [list(row) for row in segno.make_qr(url, error="m").matrix_iter(border=_QUIET)]
    if len(rows) % 2:
        rows.append([0] * len(rows[0]))
    signs = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        yield "".join(signs[bool(a), bool(b)] for a, b in zip(upper, lower, strict=True))


def _broken(lines: tuple[str, ...], width: float) -> Iterator[str]:
    """Short ones, such as titles and ports, share a line; long ones are broken."""
    most = int(width / (_TEXT * _MONO))
    joined = "  ".join(lines)
    if columns(joined) <= most:
        yield joined
        return
    for line in lines:
        yield from wrapped(line, most)


def _text(x: float, y: float, text: str, size: float, *, bold: bool = False, mono: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    family = _MONO_FONT if mono else _FONT
    return (
        f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size:g}" font-family="{family}"{weight} fill="#000">'
        f"{escape(text)}</text>"
    )


def _qr(url: str, x: float, y: float) -> str:
    """Draw the dark modules, each run of a row as one piece of a path."""
    code = segno.make_qr(url, error="m")
    rows = [[bool(module) for module in row] for row in code.matrix_iter(border=0)]
    scale = _QR / (len(rows) + 2 * _QUIET)
    runs = "".join(
        f"M{start} {number}h{length}v1h-{length}z" for number, row in enumerate(rows) for start, length in _runs(row)
    )
    # what is around it is white too, so the quiet zone may reach into the margin
    at = f"translate({x + _QUIET * scale:.3f} {y + _QUIET * scale:.3f}) scale({scale:.4f})"
    return f'<path transform="{at}" d="{runs}" fill="#000" shape-rendering="crispEdges"/>'


def _runs(row: list[bool]) -> Iterator[tuple[int, int]]:
    start = None
    for place, dark in enumerate([*row, False]):
        if dark and start is None:
            start = place
        elif not dark and start is not None:
            yield start, place - start
            start = None
