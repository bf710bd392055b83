"""What recent inspections said, kept for `monitor`: a small Parquet file an inspection, newest ones only.

The results themselves are wherever an inspection was told to write them; these files stay when those are moved away.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pandas as pd

from aesc.errors import AescError
from aesc.files import write_atomically
from tasks.settings import Settings

COLUMNS = ("sha256", "path", "score", "verdict", "strategy", "weights_sha256", "at")
MOST_IMAGES = 20_000  # of one inspection: the last ones
MOST_FILES = 200


def scores_folder(settings: Settings, category: str) -> Path:
    """Where the scores of a category are."""
    return settings.state / "monitoring" / category / "inspections"


def record_scores(settings: Settings, category: str, rows: pd.DataFrame, *, weights_sha256: str) -> Path | None:
    """Keep the scores of an inspection; the file, None if no image could be read.

    Args:
        rows: sha256, path, score (null for an unreadable image), verdict and strategy, in the order of inspection.
        weights_sha256: of the detector that gave them.
    """
    kept = rows[rows["score"].notna()].tail(MOST_IMAGES)
    if kept.empty:
        return None
    folder = scores_folder(settings, category)
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    table = kept.assign(weights_sha256=weights_sha256, at=at)[list(COLUMNS)]
    path = folder / f"{at.replace(':', '').replace('-', '')[:22]}-{uuid4().hex[:8]}.parquet"
    write_atomically(path, lambda file: table.to_parquet(file, index=False))
    for old in sorted(folder.glob("*.parquet"))[:-MOST_FILES]:
        old.unlink(missing_ok=True)
    return path


def recent_scores(settings: Settings, category: str, *, weights_sha256: str, strategy: str, most: int) -> pd.DataFrame:
    """The scores of the `most` images that one detector inspected last, newest first, each image once.

    Raises:
        AescError: a file is damaged.
    """
    frames: list[pd.DataFrame] = []
    for path in sorted(scores_folder(settings, category).glob("*.parquet"), reverse=True):
        try:
            table = pd.read_parquet(path, columns=list(COLUMNS))
        except (OSError, ValueError) as error:
            raise AescError(path, f"not readable: {error}", todo="delete it: its images do not count then") from None
        ours = table[(table["weights_sha256"] == weights_sha256) & (table["strategy"] == strategy)]
        frames.append(ours.iloc[::-1])
        if sum(map(len, frames)) >= 2 * most:  # some may be there twice
            break
    if not frames:
        return pd.DataFrame({column: pd.Series(dtype=object) for column in COLUMNS})
    return pd.concat(frames, ignore_index=True).drop_duplicates("sha256").head(most).reset_index(drop=True)
