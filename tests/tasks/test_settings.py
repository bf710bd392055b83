"""Where things live: the environment decides, and what the user has set stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from aesc.errors import AescError
from tasks.settings import Settings, find_root, prepare_environment


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for key in list(os.environ):
        if key.startswith(("AESC_", "AWS_", "MLFLOW_", "PREFECT_", "DVC_")):
            monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def project(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").touch()
    return tmp_path


def test_state_is_in_the_project_not_in_the_user_s_home(tmp_path: Path) -> None:
    settings = Settings(root=project(tmp_path))
    assert settings.state == tmp_path / ".aesc"
    assert settings.mlflow_uri == f"sqlite:///{tmp_path}/.aesc/mlflow.db"
    assert settings.data == tmp_path / "data"


def test_environment_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AESC_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("AESC_DVC_REMOTE", "s3://dvc/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:8333")
    settings = Settings(root=project(tmp_path))
    assert settings.state == tmp_path / "elsewhere"
    assert settings.mlflow_uri == "http://127.0.0.1:5000"
    assert settings.dvc_remote == "s3://dvc/x"
    assert settings.s3_endpoint == "http://127.0.0.1:8333"


def test_root_is_the_nearest_folder_with_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = project(tmp_path) / "data" / "bottle"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert find_root() == tmp_path


def test_outside_of_a_project_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AescError, match=r"params\.yaml"):
        find_root()


def test_tools_are_quiet_and_embedded_but_the_user_s_own_settings_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "false"
    prepare_environment(Settings(root=project(tmp_path)))
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / ".aesc" / "prefect")
    assert os.environ["MLFLOW_TRACKING_URI"].endswith("/.aesc/mlflow.db")


@pytest.mark.parametrize("how", ["environment", "profile"])
def test_own_prefect_server_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    import os

    monkeypatch.setattr(os, "environ", dict(os.environ))
    if how == "environment":
        os.environ["PREFECT_API_URL"] = "http://127.0.0.1:4200/api"
    else:
        profile = tmp_path / "home" / ".prefect" / "profiles.toml"
        profile.parent.mkdir(parents=True)
        profile.write_text('active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://127.0.0.1:4200/api"\n')
    prepare_environment(Settings(root=project(tmp_path)))
    assert "PREFECT_HOME" not in os.environ
