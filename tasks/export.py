"""`aesc export`: a detector as an ONNX file, kept with the version it was made from. CPU-bound, half a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.inspection import detector_folder
from tasks.settings import Settings

FOLDER = "onnx"  # in the artifacts of the MLflow run


def export_model(model: str, *, category: str | None, out: Path, settings: Settings) -> dict[str, Any]:
    """Write `out`, attach it to the version's MLflow run, and say how near it is to PyTorch; JSON-ready.

    Args:
        model: alias, version number, or folder of a saved detector, which has no version to attach to.
        category: whose detector; None for the only registered one.
        out: the file.
        settings: the project.

    Raises:
        AescError: no such model, ONNX is not installed, the answers differ, or MLflow cannot be reached.
    """
    folder, name = detector_folder(category, model, settings)

    from aesc.detector import Detector
    from aesc.onnx_export import TOLERANCE, export

    detector = Detector.load(folder, device="cpu")
    parity = export(detector, out)
    point = detector.operating_point
    return {
        "category": point.category,
        "model": name,
        "file": str(out.resolve()),
        "bytes": out.stat().st_size,
        "decides_by": "residual",
        "calibrated_strategy": point.strategy,
        "threshold": point.image_promises["residual"].threshold,
        "parity": {"images": parity.n, "score": parity.score, "residual": parity.residual}
        | {"reconstruction": parity.reconstruction, "allowed": TOLERANCE},
        "mlflow_run_id": None if Path(model).is_dir() else _attach(point.category, model, out),
    }


def _attach(category: str, model: str, file: Path) -> str:
    """Log the file beside the model, under one name for all exports of a version; the run's id."""
    import tempfile

    from tasks.registry import resolve
    from tasks.tracking import add_files

    run_id = resolve(category, model).run_id
    with tempfile.TemporaryDirectory() as scratch:
        named = Path(scratch) / "model.onnx"
        named.symlink_to(file.resolve())
        add_files(run_id, [named], folder=FOLDER)
    return run_id
