"""Where things live: taken from the environment, never from a tracked file; embedded and quiet by default."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from aesc.errors import AescError

QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # the tasks retry too
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # the default of 20 is tight on a loaded machine
}


class Settings(BaseSettings):
    """Places and addresses.

    Every field can be set by an environment variable; the ones of the outside tools keep their own names.
    """

    # The prefix keeps `home` and `root` from being taken from HOME and ROOT.
    model_config = SettingsConfigDict(env_prefix="AESC_", extra="ignore", populate_by_name=True, frozen=True)

    root: Path = Field(default_factory=lambda: find_root())  # noqa: PLW0108 - defined below
    home: Path | None = None
    artifacts: str | None = None
    dvc_remote: str | None = None
    arrivals: str | None = None
    postgres: SecretStr | None = None
    task_runner: Literal["threads", "ray"] = "threads"
    ray_address: str | None = None
    tracking_uri: str | None = Field(default=None, validation_alias="MLFLOW_TRACKING_URI")
    s3_endpoint: str | None = Field(
        default=None, validation_alias=AliasChoices("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    )

    @property
    def state(self) -> Path:
        """The folder of everything that is not the user's own: databases, caches, runs."""
        return (self.home or self.root / ".aesc").resolve()

    @property
    def data(self) -> Path:
        """The folder that `data.dvc` versions."""
        return self.root / "data"

    @property
    def cache(self) -> Path:
        """Decoded images."""
        return self.state / "cache"

    @property
    def runs(self) -> Path:
        """One folder a training run: runs/<category>/<time>-<preset>-s<seed>-<first digits of the key>."""
        return self.state / "runs"

    @property
    def mlflow_uri(self) -> str:
        """MLflow's tracking URI: the user's, or a sqlite file."""
        return self.tracking_uri or f"sqlite:///{self.state / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> str:
        """Where experiments made in the sqlite store keep artifacts."""
        return self.artifacts or (self.state / "mlartifacts").as_uri()


def find_root() -> Path:
    """The project: the nearest folder, from the current one up, that holds params.yaml."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise AescError(
        here,
        "no params.yaml here or in any folder above",
        allowed="a clone of the project",
        todo="cd into the project's folder, or set AESC_ROOT to it",
        usage=True,
    )


def prepare_environment(settings: Settings) -> None:
    """Give the outside tools quiet, offline, embedded defaults; what the user has set stays.

    Call it before prefect, mlflow or dvc are imported: they read the environment then.
    """
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AescError(
            settings.state,
            f"cannot be made: {reason}",
            allowed="a writable folder for databases, caches and runs",
            todo="set AESC_HOME to one",
        ) from error
    defaults = dict(QUIET)
    defaults["MLFLOW_TRACKING_URI"] = settings.mlflow_uri
    defaults["DVC_SITE_CACHE_DIR"] = str(settings.state / "dvc")
    if settings.s3_endpoint:
        defaults["AWS_ENDPOINT_URL"] = settings.s3_endpoint
        defaults["MLFLOW_S3_ENDPOINT_URL"] = settings.s3_endpoint
    if not _has_own_prefect():
        defaults["PREFECT_HOME"] = str(settings.state / "prefect")
        defaults["PREFECT_LOGGING_LEVEL"] = "WARNING"
    for key, value in defaults.items():
        os.environ.setdefault(key, value)


def _has_own_prefect() -> bool:
    """Whether the user points Prefect somewhere, by environment or by the profile that the Prefect CLI keeps."""
    if any(key in os.environ for key in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE")):
        return True
    try:
        profiles = tomllib.loads((Path.home() / ".prefect" / "profiles.toml").read_text(encoding="utf-8"))
        active = profiles["profiles"][profiles["active"]]
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError):
        return False
    return "PREFECT_API_URL" in active
