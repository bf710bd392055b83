from __future__ import annotations

from pathlib import Path

import pytest

from tasks.versioning import pin_data_version, track_data
from tests.arrivals import own_environment
from tests.repositories import commit_pointer, make_project
from tests.taking_in import CATEGORY, OLD


@pytest.fixture(scope="module")
def tracked_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose data is tracked, committed and pushed; tests work on copies."""
    with pytest.MonkeyPatch.context() as patch:
        settings = make_project(tmp_path_factory.mktemp("template"), images=OLD)
        own_environment(patch, settings.root)
        track_data(settings)
        commit_pointer(settings)
        pin_data_version(settings.data, CATEGORY, "", settings=settings)
    return settings.root
