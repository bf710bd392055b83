"""Panels: which images are shown, their maps on one scale, heatmaps, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aesc.canvas import DPI
from aesc.panels import PanelRow, choose_examples, heatmap_overlay, panel_figure
from tests.drawings import CAPTION, SIDE, panel_row, pixels, written


def test_panel_figure_grows_by_rows_and_takes_grey(tmp_path: Path) -> None:
    heights = [
        pixels(panel_figure([panel_row(channels=1)] * count, tmp_path / f"{count}.png", caption=CAPTION)).shape[0]
        for count in (1, 2, 3)
    ]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=1)
    assert heights[1] - heights[0] > 150


def test_panel_figure_says_no_mask_and_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        panel_row(title="spot/$1$ - worst"),
        panel_row(mask=None, verdict="pass", score=0.9999999, pixel_mask=np.zeros((SIDE, SIDE), dtype=bool)),
    ]
    texts = written(monkeypatch, lambda: panel_figure(rows, tmp_path / "a.png", caption=CAPTION, threshold=1.0)).split(
        "\n"
    )
    assert "no mask" in texts
    assert "spot/$1$ - worst" in texts
    assert "score 1.25 > threshold 1" in texts
    assert "score 0.9999999 ≤ threshold 1" in texts  # not "1 ≤ 1"
    assert "▲ reject" in texts
    assert "● pass" in texts
    for column in ("mask", "input", "prediction", "residual", "uncertainty"):
        assert column in texts


def test_panel_maps_share_one_scale(tmp_path: Path) -> None:
    faint, bright = panel_row(residual=np.full((SIDE, SIDE), 0.1)), panel_row(residual=np.full((SIDE, SIDE), 1.0))

    def middle_of_first_residual(rows: list[PanelRow], **scale: float) -> np.ndarray:
        drawn = pixels(panel_figure(rows, tmp_path / "a.png", caption=CAPTION, **scale))
        return drawn[140, 630]

    alone = middle_of_first_residual([faint])
    beside = middle_of_first_residual([faint, bright])
    assert alone.sum() > 500  # brightest
    assert beside.sum() < 200
    assert (middle_of_first_residual([faint], residual_vmax=1.0) == beside).all()


@pytest.mark.parametrize(("down", "across"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_maps_and_outline_lie_as_the_image_does(tmp_path: Path, down: int, across: int) -> None:
    corner = np.zeros((SIDE, SIDE), dtype=bool)
    near, far = slice(0, SIDE // 2 - 3), slice(SIDE // 2 + 3, SIDE)
    corner[far if down else near, far if across else near] = True
    black = np.zeros((SIDE, SIDE, 3))
    row = panel_row(
        image=black, reconstruction=black, mask=corner, pixel_mask=corner,
        residual=corner.astype(float), uncertainty=corner.astype(float),
    )  # fmt: skip
    drawn = pixels(panel_figure([row], tmp_path / "a.png", caption=CAPTION)).astype(int)
    side, pitch = 1.556 * DPI, (1.556 + 0.06) * DPI  # of a tile, and from one to the next
    bright = drawn.sum(axis=2) > 300
    cyan = (np.abs(drawn - [0x22, 0xE6, 0xFF]) < 60).all(axis=2)
    for column, found in ((0, bright), (1, cyan), (3, bright), (4, bright)):
        left, top, half = round(0.09 * DPI + column * pitch), round(0.55 * DPI), round(side / 2)
        quarters = [
            found[top + y * half : top + (y + 1) * half, left + x * half : left + (x + 1) * half]
            for y in (0, 1)
            for x in (0, 1)
        ]
        shares = [quarter.mean() for quarter in quarters]
        assert np.argmax(shares) == 2 * down + across, (column, shares)
        assert sum(shares) - max(shares) < 0.2 * max(shares), (column, shares)


@pytest.mark.parametrize("flagged", [0, 1])
def test_panel_outline_of_nothing_and_everything(flagged: int, tmp_path: Path) -> None:
    rows = [panel_row(channels=1, pixel_mask=np.full((SIDE, SIDE), bool(flagged)), residual=np.zeros((SIDE, SIDE)))]
    drawn = pixels(panel_figure(rows, tmp_path / "a.png", caption=CAPTION))
    cyan = (np.abs(drawn - [0x22, 0xE6, 0xFF]) < 30).all(axis=2)
    assert cyan.any() == bool(flagged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((SIDE, SIDE))}, "spot/003 - worst: image is"),
        ({"image": np.zeros((SIDE, SIDE, 4))}, "1 or 3 channels"),
        ({"reconstruction": np.zeros((SIDE, SIDE, 1))}, "reconstruction is"),
        ({"mask": np.zeros((SIDE, SIDE + 1), dtype=bool)}, "mask is"),
        ({"residual": np.zeros((1, SIDE, SIDE))}, "residual is"),
        ({"uncertainty": np.full((SIDE, SIDE), np.nan)}, "uncertainty is not finite"),
        ({"pixel_mask": np.zeros(SIDE, dtype=bool)}, "pixel_mask is"),
        ({"verdict": "fail"}, "allowed: pass, reject"),
    ],
)
def test_panel_row_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        panel_row(**changes)


def test_panel_figure_refuses_no_rows_and_mixed_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        panel_figure([], tmp_path / "a.png", caption=CAPTION)
    small = np.zeros((8, 8))
    other = panel_row(
        image=np.zeros((8, 8, 3)), reconstruction=np.zeros((8, 8, 3)), mask=None, residual=small, uncertainty=small,
        pixel_mask=None,
    )  # fmt: skip
    with pytest.raises(ValueError, match="several sizes"):
        panel_figure([panel_row(), other], tmp_path / "a.png", caption=CAPTION)


@pytest.mark.parametrize("channels", [1, 3])
def test_heatmap_leaves_zero_alone_and_outlines_the_flagged(channels: int) -> None:
    image = np.full((64, 64, channels), 0.5)
    anomaly_map = np.zeros((64, 64))
    anomaly_map[20:40, 20:40] = 1.0
    overlay = heatmap_overlay(image, anomaly_map, vmax=1.0, pixel_threshold=0.5)
    assert overlay.shape == (64, 64, 3)
    assert overlay.dtype == np.uint8
    assert (overlay[:15] == 128).all()
    assert tuple(overlay[20, 30]) == (0x22, 0xE6, 0xFF)
    assert tuple(overlay[19, 30]) == (0, 0, 0)
    assert overlay[30, 30, 0] > 200  # the bright end of the scale
    assert overlay[30, 30, 2] < overlay[30, 30, 0]
    same = heatmap_overlay((255 * image).round().astype(np.uint8), anomaly_map, vmax=1.0, pixel_threshold=0.5)
    assert np.abs(same.astype(int) - overlay).max() <= 1


def test_heatmap_without_threshold_has_no_outline() -> None:
    anomaly_map = np.linspace(0.0, 2.0, 64 * 64).reshape(64, 64)
    overlay = heatmap_overlay(np.zeros((64, 64, 3)), anomaly_map, vmax=1.0)
    assert not (overlay == [0x22, 0xE6, 0xFF]).all(axis=2).any()
    brightness = overlay.sum(axis=2).ravel()
    assert brightness[-1] == brightness[3000]  # saturates at vmax
    assert (np.diff(brightness[:2000:100]) >= 0).all()


@pytest.mark.parametrize(
    ("image", "anomaly_map", "vmax", "message"),
    [
        (np.zeros((8, 8)), np.zeros((8, 8)), 1.0, "image is"),
        (np.zeros((8, 8, 3)), np.zeros((8, 9)), 1.0, "anomaly_map is"),
        (np.zeros((8, 8, 3)), np.zeros((8, 8)), 0.0, "vmax is 0.0"),
        (np.zeros((8, 8, 3)), np.zeros((8, 8)), float("nan"), "vmax is nan"),
    ],
)
def test_heatmap_refuses(image: np.ndarray, anomaly_map: np.ndarray, vmax: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heatmap_overlay(image, anomaly_map, vmax=vmax)


def frame(rows: list[tuple[int, str, int, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["index", "defect", "label", "score"])


def test_choose_examples_by_hand() -> None:
    given = frame(
        [
            (10, "good", 0, 0.5),
            (11, "good", 0, 0.1),
            (12, "good", 0, 1.3),  # false alarm
            (13, "good", 0, 0.98),
            (20, "spot", 1, 0.2),  # missed
            (21, "spot", 1, 5.0),
            (22, "spot", 1, 1.1),
            (23, "spot", 1, 2.0),
            (30, "crack", 1, 3.0),
            (31, "crack", 1, 4.0),
            (40, "dent", 1, 0.4),  # alone and missed
            (50, "hole", 1, 1.4),  # alone and found
        ]
    )
    expected = [
        (31, "best"), (30, "worst"),
        (40, "worst"),
        (50, "best"),
        (21, "best"), (22, "borderline"), (20, "worst"),
        (11, "best"), (13, "borderline"), (12, "worst"),
    ]  # fmt: skip
    assert choose_examples(given, threshold=1.0) == expected
    assert choose_examples(given.sample(frac=1.0, random_state=0), threshold=1.0) == expected


def test_choose_examples_never_repeats_an_image_even_on_ties() -> None:
    given = frame([(index, "spot", 1, 1.0) for index in range(5)] + [(9, "good", 0, 1.0)])
    indices = [index for index, _ in choose_examples(given, threshold=1.0)]
    assert sorted(set(indices)) == sorted(indices)
    assert len(indices) == 4
    assert choose_examples(given, threshold=1.0)[-1] == (9, "best")  # at the threshold it passes


def test_choose_examples_refuses() -> None:
    with pytest.raises(ValueError, match="no column label"):
        choose_examples(frame([(0, "good", 0, 1.0)]).drop(columns=["label"]), threshold=1.0)
    with pytest.raises(ValueError, match="not finite"):
        choose_examples(frame([(0, "good", 0, float("nan"))]), threshold=1.0)
