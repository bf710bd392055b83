"""Residuals and MC-Dropout uncertainties of calibration and test images: bound by the GPU, or by all CPU cores."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from aesc.files import write_atomically, write_json
from tasks.run_folder import RunFolder
from tasks.training import decoded

SCALES = "scales.json"
DIVISORS = "divisors_sha256"
RESIDUAL_CHOICE = "residual_choice"


@task(task_run_name="evaluate {category}")
def evaluate_detector(category: str, data_root: str, run_folder: str) -> str:
    """Score calibration images, clean and corrupted, and the test set; the path of the scores."""
    from aesc.choice import detection_with
    from aesc.device import multiply_in_float32, resolve_device
    from aesc.evaluation import evaluate
    from aesc.normalisation import save_place_maps
    from aesc.pixels import Pixels
    from aesc.residual_choice import choose_residual
    from aesc.scoring import Scorer
    from aesc.weights import load_network

    run = RunFolder(run_folder)
    params, manifest = run.params(), run.manifest()
    device = resolve_device(params.training.device)
    multiply_in_float32()
    network, _ = load_network(run.network, device=device)
    store, rows, _ = decoded(manifest, data_root=Path(data_root), params=params)
    validation = Pixels(store, rows[(manifest["split"] == "validation").to_numpy()], device)
    choice, (scales, place_maps) = choose_residual(network, validation, params=params)
    scorer = Scorer(
        network,
        detection=detection_with(params.detection, choice),
        seed=params.training.seed,
        scales=scales,
        place_maps=place_maps,
    )
    scores = evaluate(
        scorer,
        manifest,
        store,
        rows,
        data_root=Path(data_root),
        folder=run.evaluation,
        params=params,
        device=device,
    )
    write_json(
        run.evaluation / SCALES,
        {
            **scales.model_dump(),
            DIVISORS: save_place_maps(place_maps, run.evaluation),
            RESIDUAL_CHOICE: choice and choice.model_dump(),
        },
    )
    write_atomically(run.scores, scores.to_parquet)
    return str(run.scores)
