"""A progress artifact in Prefect's UI, updated at most once a per cent, so that fast work does not wait for it."""

from __future__ import annotations

from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact


class ProgressArtifact:
    """How much of `total` is done.

    Args:
        key: lower-case letters, digits and dashes.
        description: of what.
        total: 1 or more.
    """

    def __init__(self, key: str, description: str, total: int) -> None:
        self._key = key
        self._description = description
        self._total = total
        self._shown = 0
        self._artifact: UUID | None = None

    def update(self, done: int) -> None:
        """Show that `done` of the total are done."""
        percent = 100 * done // self._total
        if percent <= self._shown:
            return
        if self._artifact is None:
            self._artifact = create_progress_artifact(
                progress=float(percent), key=self._key, description=self._description
            )  # type: ignore[assignment]
        else:
            update_progress_artifact(artifact_id=self._artifact, progress=float(percent))
        self._shown = percent
