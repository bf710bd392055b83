"""Figures: real PNGs of the promised size, the same bytes every time, and honest about what is not available."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from aesc.canvas import drawing, shorten
from aesc.errors import AescError
from aesc.figures import pro_figure, roc_figure, score_histogram, training_curves
from aesc.panels import panel_figure
from tests.drawings import CAPTION, panel_row, pixels, written

STRATEGIES = ("residual", "uncertainty", "combined")

Draw = Callable[[Path], Path]


def history(epochs: int = 6) -> pd.DataFrame:
    epoch = np.arange(epochs)
    return pd.DataFrame(
        {
            "epoch": epoch,
            "loss": 0.05 * 0.7**epoch,
            "psnr": 20.0 + epoch,
            "learning_rate": np.where(epoch < 4, 0.01, 0.005),
            "images_seen": 1000 * (epoch + 1),
        }
    )


def curves() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    x = np.linspace(0.0, 1.0, 20)
    return {name: (x, x**power) for name, power in zip(STRATEGIES, (0.2, 0.5, 0.1), strict=True)}


def scores(defect_scale: float = 3.0) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    groups = {"calibration": 1.0, "test good": 1.0, "crack": defect_scale, "spot": 2.0}
    return pd.DataFrame(
        [(scale * score, group) for group, scale in groups.items() for score in rng.gamma(20.0, 0.05, 15)],
        columns=["score", "group"],
    )


def draw_training(path: Path) -> Path:
    return training_curves(history(), path, best_epoch=5, caption=CAPTION)


def draw_roc(path: Path) -> Path:
    areas = dict.fromkeys(STRATEGIES, 0.9)
    return roc_figure(curves(), areas, path, chosen="residual", caption=CAPTION)


def draw_pro(path: Path) -> Path:
    return pro_figure(curves(), dict.fromkeys(STRATEGIES, 0.9), path, limit=0.3, chosen="combined", caption=CAPTION)


def draw_histogram(path: Path) -> Path:
    return score_histogram(scores(), path, threshold=1.4, strategy="residual", alpha_attained=1 / 16, caption=CAPTION)


def draw_panels(path: Path) -> Path:
    rows = [panel_row(), panel_row(mask=None, pixel_mask=None, verdict="pass", score=0.9)]
    return panel_figure(rows, path, caption=CAPTION, threshold=1.0)


def chunks(data: bytes) -> list[bytes]:
    names, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        names.append(data[at + 4 : at + 8])
        at += length + 12
    return names


@pytest.mark.parametrize("draw", [draw_training, draw_roc, draw_pro, draw_histogram, draw_panels])
def test_png_of_readme_width_and_always_the_same_bytes(draw: Draw, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "figure.png"
    assert draw(path) == path
    drawn = pixels(path)
    assert 800 <= drawn.shape[1] <= 910
    assert 250 <= drawn.shape[0] <= 700
    # Text that ran out of the picture would leave ink on its outermost pixels.
    edge = np.concatenate([drawn[:2].reshape(-1, 3), drawn[-2:].reshape(-1, 3), drawn[:, 0], drawn[:, -1]])
    assert (edge == 255).all()
    assert (drawn < 128).any()

    with matplotlib.rc_context({"lines.linewidth": 9.0, "font.size": 20.0, "savefig.dpi": 30}):
        again = draw(tmp_path / "again.png").read_bytes()
        assert matplotlib.rcParams["lines.linewidth"] == 9.0
    assert again == path.read_bytes()
    assert not {b"tEXt", b"tIME", b"iTXt", b"zTXt"} & set(chunks(again))


def test_threads_draw_the_same(tmp_path: Path) -> None:
    alone = draw_roc(tmp_path / "alone.png").read_bytes()
    before = dict(matplotlib.rcParams)
    with ThreadPoolExecutor(2) as pool:
        files = list(pool.map(draw_roc, [tmp_path / f"{i}.png" for i in range(2)]))
    assert all(file.read_bytes() == alone for file in files)
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_imported(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from aesc.figures import roc_figure; import aesc.panels\n"
        f"roc_figure({{}}, {{}}, Path({str(tmp_path / 'a.png')!r}), chosen='residual', caption='n = 0')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_caption_is_required_and_wrapped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="caption is empty"), drawing(tmp_path / "a.png", height=1.0, caption=" "):
        pass
    assert not (tmp_path / "a.png").exists()
    heights = []
    for number, caption in enumerate(("n = 3 \u200b", "0123456789 " * 20)):
        with drawing(tmp_path / f"{number}.png", height=1.0, caption=caption):
            pass
        drawn = pixels(tmp_path / f"{number}.png")
        assert (drawn[:, -5:] == 255).all()
        heights.append(drawn.shape[0])
    assert heights[1] > heights[0]


def test_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AescError, match="could not be written"):
        draw_roc(tmp_path / "file" / "roc.png")


def test_shorten_keeps_both_ends() -> None:
    assert shorten("abc", 3) == "abc"
    assert shorten("abcdefghij", 5) == "ab…ij"


@pytest.mark.parametrize("epochs", [1, 2, 200])
def test_training_curves_of_any_length(epochs: int, tmp_path: Path) -> None:
    pixels(training_curves(history(epochs), tmp_path / "a.png", best_epoch=0, caption=CAPTION))


def test_training_curves_marks_the_best_epoch(tmp_path: Path) -> None:
    first = training_curves(history(), tmp_path / "a.png", best_epoch=1, caption=CAPTION).read_bytes()
    assert first != training_curves(history(), tmp_path / "b.png", best_epoch=4, caption=CAPTION).read_bytes()


@pytest.mark.parametrize(("falls_every", "marked"), [(4, [4000.0]), (1, [])])
def test_a_rate_that_falls_now_and_then_is_marked_and_one_that_always_does_is_not(
    falls_every: int, marked: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[float] = []
    draw = Axes.axvline
    monkeypatch.setattr(Axes, "axvline", lambda self, x, **looks: lines.append(x) or draw(self, x, **looks))
    frame = history().assign(learning_rate=[0.01 / 2 ** (epoch // falls_every) for epoch in range(6)])
    training_curves(frame, tmp_path / "a.png", best_epoch=5, caption=CAPTION)
    assert sorted(lines) == sorted(3 * [*marked, 6000.0])


@pytest.mark.parametrize(
    ("frame", "best", "message"),
    [
        (history().drop(columns=["psnr"]), 0, "no column psnr"),
        (history().iloc[:0], 0, "no rows"),
        (history(), 6, "best_epoch 6 occurs 0 times"),
    ],
)
def test_training_curves_refuses(frame: pd.DataFrame, best: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        training_curves(frame, tmp_path / "a.png", best_epoch=best, caption=CAPTION)


@pytest.mark.parametrize("missing", [{}, dict.fromkeys(STRATEGIES)])
def test_not_available_is_said(missing: dict[str, None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roc = written(monkeypatch, lambda: roc_figure(missing, {}, tmp_path / "a.png", chosen="residual", caption=CAPTION))
    assert "not available: no defective images" in roc
    pro = written(
        monkeypatch,
        lambda: pro_figure(missing, {}, tmp_path / "b.png", limit=0.3, chosen="residual", caption=CAPTION),
    )
    assert "not available: no masks" in pro


def test_one_missing_curve_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {**curves(), "uncertainty": None}
    areas = {"residual": 0.95, "uncertainty": None, "combined": 0.9}
    texts = written(
        monkeypatch,
        lambda: roc_figure(
            given, areas, tmp_path / "a.png", chosen="residual", caption=CAPTION, positives="held-out corruptions"
        ),
    )
    assert "residual (chosen)\nAUROC 0.950" in texts
    assert "uncertainty\nAUROC not available" in texts
    assert "held-out corruptions flagged" in texts
    assert CAPTION in texts


@pytest.mark.parametrize(
    ("given", "chosen", "message"),
    [
        ({"residual": (np.zeros(3), np.zeros(4))}, "residual", "two equally long"),
        ({"residual": (np.zeros(0), np.zeros(0))}, "residual", "two equally long"),
        ({"residual": (np.zeros((2, 2)), np.zeros((2, 2)))}, "residual", "two equally long"),
        ({"residual": (np.zeros(3),)}, "residual", "x values and y values"),
        ({"residual": (np.zeros(3), np.zeros(3))}, "best", "chosen is 'best'"),
    ],
)
def test_curves_refuse(given: dict[str, tuple[np.ndarray, ...]], chosen: str, message: str, tmp_path: Path) -> None:
    for draw in (
        lambda: roc_figure(given, {}, tmp_path / "a.png", chosen=chosen, caption=CAPTION),
        lambda: pro_figure(given, {}, tmp_path / "a.png", limit=0.3, chosen=chosen, caption=CAPTION),
    ):
        with pytest.raises(ValueError, match=message):
            draw()
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.5, float("nan")])
def test_pro_figure_refuses_a_limit(limit: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit is"):
        pro_figure(curves(), {}, tmp_path / "a.png", limit=limit, chosen="residual", caption=CAPTION)


def test_score_histogram_writes_the_promise_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame(
        {"score": [1.0, 2.0, 3.0, 4.0, 3.5, 9.0], "group": ["calibration"] * 4 + ["price_$5$", "price_$5$"]}
    )
    texts = written(
        monkeypatch,
        lambda: score_histogram(
            frame, tmp_path / "a.png", threshold=4.0, strategy="residual", alpha_attained=1 / 21, caption=CAPTION
        ),
    )
    assert "threshold 4: at most 4.8 % of clean images above" in texts
    assert "0 of 4 above\n(0.0 %)" in texts  # a score equal to the threshold passes
    assert "1 of 2 above\n(50.0 %)" in texts
    assert "price_$5$" in texts


def test_promise_is_never_rounded_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = written(
        monkeypatch,
        lambda: score_histogram(
            scores(), tmp_path / "a.png", threshold=1.0, strategy="residual", alpha_attained=0.1201, caption=CAPTION
        ),
    )
    assert "at most 12.1 %" in texts


@pytest.mark.parametrize(
    ("frame", "threshold"),
    [
        (scores(defect_scale=1000.0), 1.4),  # logarithmic
        (scores(), 50.0),  # beyond all scores
        (scores(), -3.0),
        (scores().assign(score=0.0), 0.0),
        (scores().assign(score=1e-7), 1e-7),
        (scores().iloc[:1], 1.0),
    ],
)
def test_score_histogram_of_any_range(frame: pd.DataFrame, threshold: float, tmp_path: Path) -> None:
    drawn = pixels(
        score_histogram(
            frame, tmp_path / "a.png", threshold=threshold, strategy="combined", alpha_attained=0.05, caption=CAPTION
        )
    )
    assert (drawn[:, -1] == 255).all()
    assert (drawn[:, 0] == 255).all()


@pytest.mark.parametrize(
    ("frame", "threshold", "message"),
    [
        (scores().drop(columns=["group"]), 1.0, "no column group"),
        (scores().iloc[:0], 1.0, "no rows"),
        (scores().assign(score=np.nan), 1.0, "not finite"),
        (scores(), float("inf"), "not finite"),
    ],
)
def test_score_histogram_refuses(frame: pd.DataFrame, threshold: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        score_histogram(
            frame, tmp_path / "a.png", threshold=threshold, strategy="residual", alpha_attained=0.05, caption=CAPTION
        )
