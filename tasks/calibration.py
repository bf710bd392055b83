"""Choosing the strategy and the thresholds, and measuring what they achieve: bound by the CPU, seconds."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pandas as pd
from prefect import task

from aesc.files import read_json, write_atomically, write_json
from tasks.evaluation import DIVISORS, RESIDUAL_CHOICE, SCALES
from tasks.run_folder import RunFolder

if TYPE_CHECKING:
    from aesc.operating_point import OperatingPoint

LOGGER = logging.getLogger("aesc")


@task(task_run_name="calibrate {category}")
def calibrate_threshold(category: str, run_folder: str) -> str:
    """Calibrate, save the detector, and write metrics and score tables; the strategy."""
    import torch

    from aesc.choice import ResidualChoice
    from aesc.detector import Detector
    from aesc.normalisation import load_place_maps
    from aesc.operating_point import calibrate
    from aesc.report import calibration_table, measure, score_table
    from aesc.scoring import Scales
    from aesc.weights import load_network

    run = RunFolder(run_folder)
    params, state = run.params(), run.state
    scores = pd.read_parquet(run.scores)
    cpu = torch.device("cpu")
    network, description = load_network(run.network, device=cpu)
    reference = read_json(run.evaluation / SCALES)
    divisors_sha256 = reference.pop(DIVISORS)
    residual_choice = reference.pop(RESIDUAL_CHOICE)
    place_maps = load_place_maps(run.evaluation, sha256=divisors_sha256, device=cpu)
    point = calibrate(
        scores,
        params=params,
        category=category,
        data_version=state["data_version"]["version"],
        weights_sha256=description.weights_sha256,
        channels=description.channels,
        scales=Scales.model_validate(reference),
        divisors_sha256=divisors_sha256,
        residual_choice=residual_choice and ResidualChoice.model_validate(residual_choice),
    )
    Detector(network, point, place_maps).save(run.detector)
    _say_promise(point)
    metrics = measure(scores, run.evaluation, point=point, params=params)
    write_json(run.metrics, metrics)
    table = score_table(scores, point=point)
    write_atomically(run.score_table, lambda path: table.to_csv(path, index=False))
    known = calibration_table(scores, point=point)
    write_atomically(run.calibration_scores, lambda path: known.to_csv(path, index=False))
    return point.strategy


@task(task_run_name="draw {category}")
def draw_figures(category: str, run_folder: str) -> str:
    """Draw curves, ROC, PRO, histogram and panels from what the run folder holds; the folder of figures."""
    from aesc.operating_point import OperatingPoint
    from aesc.report_figures import draw_report

    run = RunFolder(run_folder)
    draw_report(
        run.figures,
        history=pd.read_csv(run.history),
        best_epoch=run.state["best_epoch"],
        scores=pd.read_parquet(run.scores),
        evaluation=run.evaluation,
        metrics=read_json(run.metrics),
        point=OperatingPoint.load(run.detector),
        params=run.params(),
    )
    return str(run.figures)


def _say_promise(point: OperatingPoint) -> None:
    for choice in (point.residual_choice, point.choice):
        if choice:
            LOGGER.info(choice.reason)
    (LOGGER.info if point.promise.kept else LOGGER.warning)(point.promise.message)
