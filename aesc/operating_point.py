"""What a model version is served with: strategy, thresholds, the promise that comes with them, and when to abstain."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from aesc.abstention import Abstention, abstention_band
from aesc.calibration import Promise, StrategyChoice, choose_strategy, conformal_threshold, pixel_threshold
from aesc.choice import ResidualChoice, detection_with
from aesc.errors import AescError
from aesc.files import read_json, write_json
from aesc.params import STRATEGIES, Detection, Params, Strategy
from aesc.scoring import Scales
from aesc.separation import Separation, error_of_difference, separation

FILE = "operating_point.json"
FORMAT = 4


class OperatingPoint(BaseModel):
    """Strategy, thresholds and preprocessing of one detector; frozen, and it knows the weights it belongs to.

    `image_promises`, `pixel_promises` and `abstentions` hold every strategy's threshold and band, so that another one
    can be asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    category: str
    data_version: str
    weights_sha256: str
    seed: int
    image_size: int
    channels: int
    max_megapixels: float
    detection: Detection
    scales: Scales
    divisors_sha256: str = ""  # of the place maps (aesc/normalisation.py), "" for none; named when all were divisors
    strategy: Strategy
    choice: StrategyChoice | None
    residual_choice: ResidualChoice | None = None  # None where nothing was to choose from
    image_promises: dict[Strategy, Promise]
    pixel_promises: dict[Strategy, Promise]
    abstentions: dict[Strategy, Abstention]

    @property
    def promise(self) -> Promise:
        """The chosen strategy's image threshold."""
        return self.image_promises[self.strategy]

    @property
    def pixel_promise(self) -> Promise:
        """The chosen strategy's pixel threshold."""
        return self.pixel_promises[self.strategy]

    @property
    def abstention(self) -> Abstention:
        """The chosen strategy's band."""
        return self.abstentions[self.strategy]

    def save(self, folder: Path) -> None:
        """Write `folder/operating_point.json`, atomically."""
        write_json(folder / FILE, self.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> OperatingPoint:
        """Read it back.

        Raises:
            AescError: the file is missing, damaged or of another format.
        """
        content = read_json(folder / FILE)
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise AescError(
                folder / FILE,
                f"format {content.get('format')}",
                allowed=f"format {FORMAT}",
                todo="retrain the category",
            )
        try:
            # Detection is strict, and JSON has no tuples: read it as JSON.
            return cls.model_validate(content)
        except ValidationError as error:
            detail = error.errors()[0]
            raise AescError(
                folder / FILE,
                f"not an operating point: {'.'.join(map(str, detail['loc']))}: {detail['msg']}",
                todo="fetch the model version again, or retrain the category",
            ) from error


def calibrate(
    scores: pd.DataFrame,
    *,
    params: Params,
    category: str,
    data_version: str,
    weights_sha256: str,
    channels: int,
    scales: Scales,
    divisors_sha256: str = "",
    residual_choice: ResidualChoice | None = None,
) -> OperatingPoint:
    """Choose the strategy and the thresholds from calibration images alone.

    Args:
        scores: one row an image with columns path, split, corruption ("" for the image as it is) and
            `<strategy>_<score>`; only rows of the split "calibration" are looked at.
        residual_choice: by which they were scored; None for `detection.residual`.

    Raises:
        AescError: the promise cannot be kept and `calibration.on_shortage` is "stop".
    """
    rows = scores[scores["split"] == "calibration"]
    clean = rows[rows["corruption"] == ""]
    kind = params.detection.image_score
    settings = params.calibration
    uncertain = any(params.network.dropout)
    if params.detection.strategy == "auto":
        allowed = STRATEGIES if uncertain else ("residual",)
        found = {strategy: _separation(rows, f"{strategy}_{kind}") for strategy in allowed}
        choice = choose_strategy(
            {strategy: separated.auroc for strategy, separated in found.items()},
            tie=settings.tie,
            error=lambda one, other: error_of_difference(found[one], found[other]),
        )
        strategy = choice.strategy
    else:
        choice, strategy = None, params.detection.strategy
    image_promises = {
        name: conformal_threshold(
            clean[f"{name}_{kind}"], alpha=settings.false_alarm_rate, on_shortage=settings.on_shortage
        )
        for name in STRATEGIES
    }
    return OperatingPoint(
        category=category,
        data_version=data_version,
        weights_sha256=weights_sha256,
        seed=params.training.seed,
        image_size=params.data.image_size,
        channels=channels,
        max_megapixels=params.data.max_megapixels,
        detection=detection_with(params.detection, residual_choice),
        scales=scales,
        divisors_sha256=divisors_sha256,
        strategy=strategy,
        choice=choice,
        residual_choice=residual_choice,
        image_promises=image_promises,
        pixel_promises={
            name: pixel_threshold(
                clean[f"{name}_peak"], alpha=settings.false_alarm_rate, on_shortage=settings.on_shortage
            )
            for name in STRATEGIES
        },
        abstentions={
            name: abstention_band(
                clean[f"{name}_{kind}"], k=promise.k, rate=settings.abstention_rate, both_maps=uncertain
            )
            for name, promise in image_promises.items()
        },
    )


def _separation(rows: pd.DataFrame, column: str) -> Separation:
    """Of calibration images, each with its own corruptions."""
    by_kind = rows.pivot(index="path", columns="corruption", values=column)
    kinds = {str(kind): by_kind[kind] for kind in by_kind.columns}
    return separation(kinds.pop("", ()), kinds)
