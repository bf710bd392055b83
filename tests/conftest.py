"""Fixtures that several tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.categories import draw_category
from tests.servers import Server

MakeCategory = Callable[..., Path]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real MVTec AD images, for tests marked `real_data`."""
    folder = Path(os.environ.get("AESC_REAL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "mvtec_256").is_dir():
        pytest.skip(f"no real MVTec AD images in {folder}; AESC_REAL_DATA names another folder")
    return folder


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Prefect's server; its `env` holds PREFECT_API_URL and PREFECT_HOME."""
    with servers.prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        yield server


@pytest.fixture
def make_category(tmp_path: Path) -> MakeCategory:
    """A function that writes a small category in MVTec layout and returns its root, the folder above it."""

    def make(name: str = "widget", *, root: Path | None = None, **how: Any) -> Path:
        return draw_category(root or tmp_path / "data", name, **how)

    return make
