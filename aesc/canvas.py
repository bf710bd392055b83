"""One look for every figure: fixed style, colour-blind-safe colours, a caption, the same bytes every time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from aesc.files import write_atomically

DPI = 110
WIDTH = 8.2  # inches: 902 pixels, the width of a README, so that nothing is scaled there

# Okabe and Ito, "Color universal design" (2008): told apart with every common colour vision.
BLUE, ORANGE, GREEN, SKY, PURPLE, OUTLINE = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "#22E6FF"
INK, FAINT = "#222222", "#5F5F5F"

_STYLE: dict[str, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a file name is a $
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}
_CAPTION_SIZE = 7.5  # points
_CAPTION_LINE = 0.15  # inches
_CAPTION_MARGIN = 0.09  # inches
_COMPRESSION = 4  # of PNG: a third of the time of the usual 6, 2 % more bytes
_HINTING = 0.95  # drawn letters sit on whole pixels, which makes a line a little wider than its outlines

# Matplotlib keeps its style in one global; two threads drawing at once would restore each other's.
_STYLE_LOCK = threading.Lock()


@contextmanager
def drawing(
    path: Path, *, height: float, caption: str, width: float = WIDTH, arrange: bool = True
) -> Iterator[SubFigure]:
    """A space of `width` x `height` inches to draw in; afterwards it is at `path` as PNG, with `caption` below it.

    `arrange` makes room for labels and titles, for which everything is drawn twice; off for what is placed by inches.

    The user's own Matplotlib settings neither change the picture nor are changed by it, and the file holds no date and
    no version, so that equal content gives equal bytes.

    Raises:
        ValueError: the caption is empty.
        AescError: the file cannot be written.
    """
    lines = _wrap(caption, width - 2 * _CAPTION_MARGIN)
    if not lines:
        raise ValueError("caption is empty; allowed: n, seed, data version and metric version in words")
    foot_height = len(lines) * _CAPTION_LINE + 0.12
    with _STYLE_LOCK, matplotlib.style.context(["default", _STYLE]):
        layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.09) if arrange else None
        figure = Figure(figsize=(width, height + foot_height), dpi=DPI, layout=layout)
        FigureCanvasAgg(figure)
        (body,), (foot,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(height, foot_height), hspace=0.0)
        foot.text(
            _CAPTION_MARGIN / width, 0.98, "\n".join(lines), va="top", size=_CAPTION_SIZE, color=FAINT, linespacing=1.3
        )
        yield body
        style: dict[str, Any] = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": _COMPRESSION}}
        write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DPI, **style))


def say(axes: Axes, text: str) -> None:
    """Write `text` into the middle of otherwise empty `axes`: what is not available, and why."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT, size=11)


def shorten(text: str, length: int) -> str:
    """`text` in at most `length` characters, its middle left out: both ends of a path tell something."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def plain_log_ticks(axis: Axis, *, subs: tuple[float, ...] = (1.0, 2.0, 5.0)) -> None:
    """Ticks at `subs` times each power of ten, written as plain numbers."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def require_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise ValueError unless `frame` has these columns and at least one row."""
    absent = [column for column in columns if column not in frame.columns]
    if absent:
        raise ValueError(f"no column {', '.join(absent)}; found: {', '.join(map(str, frame.columns)) or 'none'}")
    if frame.empty:
        raise ValueError(f"no rows; allowed: at least one with {', '.join(columns)}")


def _wrap(text: str, width: float) -> list[str]:
    """Lines of at most `width` inches; measured, for a caption of digits is a third wider than one of words."""
    font, room = FontProperties(size=_CAPTION_SIZE), 72.0 * _HINTING * width
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_to_path.get_text_width_height_descent(longer, font, ismath=False)[0] <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
