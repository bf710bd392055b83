"""Fixtures that several tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.categories import draw_category

MakeCategory = Callable[..., Path]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real MVTec AD images, for tests marked `real_data`."""
    folder = Path(os.environ.get("AESC_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "mvtec_256").is_dir():
        pytest.skip(f"no real MVTec AD images in {folder}; AESC_REAL_DATA names another folder")
    return folder


@pytest.fixture
def make_category(tmp_path: Path) -> MakeCategory:
    """A function that writes a small category in MVTec layout and returns its root, the folder above it."""

    def make(name: str = "widget", *, root: Path | None = None, **how: Any) -> Path:
        return draw_category(root or tmp_path / "data", name, **how)

    return make
