"""Writing files so that a crash or a full disk leaves the old one whole."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from aesc.errors import AescError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a temporary file beside `path`, flush it to disk and move it into place.

    Raises:
        AescError: the disk is full or the folder cannot be written; `path` is as it was before.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except Exception as error:
        fault = _disk_fault(error)
        if fault is None:
            raise
        raise not_written(path, fault, kept="the earlier file is whole") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def not_written(path: Path, fault: BaseException, *, kept: str = "") -> AescError:
    """The one error for a full disk or a folder that cannot be written; `kept` says what is not lost."""
    todo = "free some space or mend the permissions, then run the same command again"
    return AescError(
        path,
        f"could not be written: {getattr(fault, 'strerror', None) or fault}",
        allowed="a writable folder with free space",
        todo=f"{todo}; {kept}" if kept else todo,
    )


def _disk_fault(error: BaseException | None) -> BaseException | None:
    """What the operating system said, if `error` comes from a failed write; else None.

    `torch.save` to an open file buries the OSError under a RuntimeError about file positions ("unexpected pos 704 vs
    598"), and safetensors has an error of its own.
    """
    while isinstance(error, RuntimeError):
        error = error.__context__
    from_disk = isinstance(error, OSError) or (
        isinstance(error, SafetensorError) and any(sign in str(error) for sign in ("I/O error", "IoError"))
    )
    return error if from_disk else None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def read_json(path: Path) -> Any:
    """Read JSON written by `write_json`.

    Raises:
        AescError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AescError(path, f"not readable as JSON: {error}", todo="run the command that writes it again") from error
