"""The record of what the court decided: files and a page, MLflow's copy of them, and what the ledger keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from aesc.errors import AescError
from aesc.files import read_json, write_atomically, write_json
from aesc.params import Params
from tasks.lineage import readable_errors
from tasks.registry import Registered, model_uri, resolve
from tasks.settings import Settings
from tasks.tracking import client
from tasks.versioning import DataVersion

if TYPE_CHECKING:
    from aesc.court import Judgement, Statement
    from aesc.detector import Detector
    from tasks.court import Court

RECORD, PAGE, SCORES = "decision.json", "index.html", "scores.csv"
SIDES = ("champion", "challenger")
FORMAT = 1
MOST_SHOWN = 6


def tabulate(court: Court, statements: Sequence[Statement], detectors: Sequence[Detector]) -> pd.DataFrame:
    """One row an image: what both say of it; where the verdicts differ comes first, then where the scores do most."""
    table = pd.DataFrame([{"number": i, "image": one.name} for i, one in enumerate(court.exhibits)])
    table["sha256"] = [one.sha256 for one in court.exhibits]
    table["defect"] = [one.defect for one in court.exhibits]
    table["label"] = [one.label for one in court.exhibits]
    for side, said, detector in zip(SIDES, statements, detectors, strict=True):
        table[f"{side}_score"] = said.scores
        table[f"{side}_threshold"] = detector.operating_point.promise.threshold
        table[f"{side}_verdict"] = np.where(said.alarms, "reject", "pass")
    table["differ"] = table["champion_verdict"] != table["challenger_verdict"]
    ranks = [table[f"{side}_score"].rank(pct=True) for side in SIDES]
    table["rank_change"] = ranks[1] - ranks[0]
    return table


def describe_decision(
    category: str,
    versions: Sequence[Registered],
    detectors: Sequence[Detector],
    judgement: Judgement,
    data_version: DataVersion,
    params: Params,
    *,
    learnt_test: Sequence[int],
) -> dict[str, Any]:
    """All of a decision, for `keep_record`; `learnt_test` is how many test images each of the two was made from."""
    from aesc.court import describe
    from aesc.evaluation import SYNTHETIC
    from aesc.metrics import METRIC_VERSION

    sides = {}
    for side, version, detector, leaked in zip(SIDES, versions, detectors, learnt_test, strict=True):
        point = detector.operating_point
        sides[side] = {
            "version": version.version,
            "uri": model_uri(category, version.version),
            "run_id": version.run_id,
            "weights_sha256": point.weights_sha256,
            "data_version": point.data_version,
            "strategy": point.strategy,
            "residual": point.detection.residual,
            "threshold": point.promise.threshold,
            "promise": point.promise.model_dump(),
            "image_size": point.image_size,
            "test_images_learnt_from": leaked,
        }
    return {
        "format": FORMAT,
        "category": category,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": judgement.verdict,
        "reasons": list(judgement.reasons),
        "notes": list(judgement.notes),
        "synthetic_defects": any(one.defect.startswith(SYNTHETIC) for one in judgement.differences),
        "data_version": data_version.version,
        "data_version_kind": data_version.kind,
        "metric_version": METRIC_VERSION,
        "n_good": judgement.n_good,
        "n_defective": judgement.n_defective,
        "bootstrap": judgement.bootstrap,
        "confidence": judgement.confidence,
        "seed": judgement.seed,
        "rules": params.promotion.model_dump(mode="json"),
        **sides,
        "differences": [
            {**asdict(one), "difference": one.difference, "text": describe(one)} for one in judgement.differences
        ],
    }


def keep_record(
    decision: dict[str, Any],
    table: pd.DataFrame,
    court: Court,
    detectors: Sequence[Detector],
    settings: Settings,
    *,
    attached: bool,
) -> Path:
    """Write the record; decision.json last, so that a folder that has one is whole."""
    from tasks.pages import render_template

    folder: Path = _new_folder(settings, decision)
    decision["record"] = f"runs:/{decision['challenger']['run_id']}/court/{folder.name}" if attached else None
    order = table.assign(change=table["rank_change"].abs()).sort_values(
        ["differ", "change", "number"], ascending=[False, False, True]
    )
    shown = [int(number) for number in order["number"].head(MOST_SHOWN)]
    figures = {
        side: _draw_panels(folder, side, decision, table, shown, court, one)
        for side, one in zip(SIDES, detectors, strict=True)
    }
    ordered = order.drop(columns=["number", "change"])
    write_atomically(folder / SCORES, lambda path: ordered.to_csv(path, index=False))
    page = render_template(
        "decision.html.j2",
        decision=decision,
        figures=figures,
        shown=len(shown),
        differing=int(table["differ"].sum()),
        total=len(table),
        rows=[row for row in ordered.to_dict("records") if row["differ"]],
    )
    write_atomically(folder / PAGE, lambda path: path.write_text(page, encoding="utf-8"))
    decision["images"] = len(table)
    decision["verdicts_differ"] = int(table["differ"].sum())
    write_json(folder / RECORD, decision)
    return folder


def _new_folder(settings: Settings, decision: dict[str, Any]) -> Path:
    stamp = decision["at"][:19].replace("-", "").replace(":", "")
    name = f"{stamp}-{decision['champion']['version']}-against-{decision['challenger']['version']}"
    for number in range(1000):
        folder: Path = settings.state / "court" / decision["category"] / f"{name}{f'-{number}' if number else ''}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise AescError(folder, f"cannot be made: {error}", todo="set AESC_HOME to a writable folder") from error
        return folder
    raise AescError(settings.state / "court", "too many decisions in one second", todo="wait a second")


def _draw_panels(
    folder: Path,
    side: str,
    decision: dict[str, Any],
    table: pd.DataFrame,
    shown: Sequence[int],
    court: Court,
    detector: Detector,
) -> str:
    from aesc.panels import PanelRow, panel_figure

    chosen = [court.exhibits[number] for number in shown]
    rows = [
        PanelRow(
            title=f"{exhibit.defect}/{Path(exhibit.name).stem}" + (" - differ" if table["differ"][number] else ""),
            image=prediction.image,
            mask=mask,
            reconstruction=prediction.reconstruction,
            residual=prediction.maps["residual"],
            uncertainty=prediction.maps["uncertainty"],
            score=prediction.score,
            verdict=table[f"{side}_verdict"][number],
            pixel_mask=prediction.mask,
        )
        for number, exhibit, (prediction, mask) in zip(shown, chosen, court.predict(detector, chosen), strict=True)
    ]
    caption = (
        f"{side}, {decision[side]['uri']}: {decision['n_good']} clean + {decision['n_defective']} defective images, "
        f"seed {decision['seed']}, data {decision['data_version'][:12]}, metric version {decision['metric_version']}"
    )
    panel_figure(rows, folder / f"{side}.png", caption=caption, threshold=decision[side]["threshold"])
    return f"{side}.png"


def attach_record(category: str, folder: Path) -> None:
    """Put the record into the challenger's MLflow run and say so in its version's tags; safe to repeat.

    Raises:
        AescError: MLflow or its artifact store cannot be reached.
    """
    decision = read_json(folder / RECORD)
    judged = decision["challenger"]
    with readable_errors():
        tracking = client()
        tracking.log_artifacts(judged["run_id"], str(folder), f"court/{folder.name}")
        tags = {
            "verdict": decision["verdict"],
            "at": decision["at"],
            "against": decision["champion"]["version"],
            "data_version": decision["data_version"],
            "record": decision["record"],
            "synthetic_defects": str(decision["synthetic_defects"]),
        }
        name = resolve(category, judged["version"]).name
        for key, value in tags.items():
            tracking.set_model_version_tag(name, judged["version"], f"court.{key}", value)


def evidence_of(decision: dict[str, Any]) -> dict[str, Any]:
    """What the ledger keeps of a decision: enough to find the rest."""
    return {
        "record": decision["record"],
        "mlflow_run_id": decision["challenger"]["run_id"],
        "verdict": decision["verdict"],
        "champion": decision["champion"]["version"],
        "data_version": decision["data_version"],
        "n_good": decision["n_good"],
        "n_defective": decision["n_defective"],
        "metric_version": decision["metric_version"],
    }


def to_markdown(decision: dict[str, Any]) -> str:
    """The decision as a page for Prefect's UI."""
    rows = [
        f"| {one['metric']} | {one['defect']} | {_number(one['champion'])} | {_number(one['challenger'])} | "
        f"{_number(one['difference'], '+.4f')} | {_number(one['low'], '+.4f')} to {_number(one['high'], '+.4f')} |"
        for one in decision["differences"]
    ]
    return "\n".join(
        [
            f"# {decision['verdict']}: {decision['challenger']['uri']} against version "
            f"{decision['champion']['version']}",
            "",
            *(f"- {reason}" for reason in decision["reasons"]),
            *(f"- **{note}**" for note in decision["notes"]),
            "",
            f"| metric | images | champion | challenger | difference | {100 * decision['confidence']:g} % interval |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"{decision['n_good']} clean and {decision['n_defective']} defective images, data version "
            f"`{decision['data_version']}`, seed {decision['seed']}, {decision['bootstrap']} paired resamples, metric "
            f"version {decision['metric_version']}.",
            "",
            f"Record: `{decision['record']}`",
            "",
        ]
    )


def _number(value: float | None, form: str = ".4f") -> str:
    return "not available" if value is None else format(value, form)
