"""How figures look, and how they become SVG: the same bytes each time, in colours that a page can turn dark."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1f2933", "#637080", "#e4e8ed", "#fefefe"
BEFORE, AFTER = "#b7c2ce", "#2b6cb0"
WINNER, TEACHER, BUDGET = "#c11f5d", "#1d7a50", "#b3321f"
ORIGINS = {
    "tuner": AFTER,
    "uniform": "#c77700",
    "informed": "#0f8a8a",
    "champion": "#a3386b",
    "random": "#7a58c1",
    "ladder": "#8593a3",
}
"""Colour of a trial, by who proposed it."""
SERIES = (AFTER, "#c77700", "#7a58c1", TEACHER, WINNER, "#8593a3")

PALETTE = {
    "ink": INK, "muted": MUTED, "grid": GRID, "paper": PAPER, "before": BEFORE, "after": AFTER,
    "winner": WINNER, "teacher": TEACHER, "budget": BUDGET,
    "uniform": ORIGINS["uniform"], "informed": ORIGINS["informed"], "champion": ORIGINS["champion"],
    "random": ORIGINS["random"], "ladder": ORIGINS["ladder"],
}  # fmt: skip
"""Colours by the name of their CSS property, `--figure-NAME`."""

WIDTH = 4.9
"""Inches: narrow, so that text stays readable on a phone; a wide page sets two side by side."""

_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
    "text.parse_math": False,  # a class may be named "$5"
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the layout is the same on every machine
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": PAPER,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": PAPER,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


@contextmanager
def canvas(height: float, *, rows: int = 1) -> Iterator[tuple["Figure", list["Axes"]]]:
    """A figure of `height` inches with `rows` axes below each other, in the house's style, free of global state."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's font may well have it
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = [figure.add_subplot(rows, 1, row + 1) for row in range(rows)]
        yield figure, axes


def svg(figure: "Figure", name: str) -> str:
    """The figure as a standalone SVG document; ids start with `name`, so that figures can share a page."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = name  # inside `canvas`, which restores it
    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=nothing)
    text = re.sub(r'\bid="', f'id="{name}-', stream.getvalue())
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def inline(document: str, label: str) -> str:
    """An SVG document as an element of a page: no prologue, size from the page, colours as CSS properties.

    `label` (plain text) is what a screen reader says. Raises ValueError if `document` is not one of `svg`.
    """
    from html import escape

    start = document.find("<svg ")
    if start < 0:
        raise ValueError("not an SVG document")
    body = re.sub(r"<style.*?</style>", "", document[start:], flags=re.DOTALL)
    body = re.sub(r'\b(width|height)="[\d.]+pt" ?', "", body, count=2)
    for name, colour in PALETTE.items():
        body = body.replace(colour, f"var(--figure-{name})")
    return body.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)


def name_rows(axes: "Axes", names: list[str], size: float = 9.0) -> None:
    """One named row a line, the first on top."""
    axes.set_yticks(range(len(names)), names, fontsize=size, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def count_along(axes: "Axes") -> None:
    """Whole numbers only below the axis: there is no trial 2.5."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def shorten(text: str, length: int = 22) -> str:
    """A name that fits beside an axis; the end is kept, where names of layers differ.

    >>> shorten("features.layer3.block8.convolution2")
    '...block8.convolution2'
    """
    return text if len(text) <= length else "..." + text[-(length - 3) :]
