"""Everything that changes a result, in strict, frozen sections; `aesc.params_file` reads them from `params.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

CorruptionKind = Literal["none", "stain", "structured", "gaussian", "scratch", "drops"]
LocalKind = Literal["stain", "scratch", "drops"]
Fill = Literal["grey", "colour", "noise", "other", "self", "gain"]
Strategy = Literal["residual", "uncertainty", "combined"]
ResidualKind = Literal["pixels", "features", "both", "all"]
Loss = Literal["squared", "charbonnier"]
TurnsWish = Literal["none", "auto"]
ImageScore = Literal["l2", "max", "top"]

FILLS: tuple[Fill, ...] = get_args(Fill)
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
IMAGE_SCORES: tuple[ImageScore, ...] = get_args(ImageScore)

BLUR_REACH = 3.0  # sigmas after which a stain's blurred edge is cut off
MOST_REACH = 0.48  # of the image side: the smallest image (64) has 31 pixels on either side of its centre

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]
Range = Annotated[tuple[Rate, Rate], Field(strict=False)]
Rates = Annotated[tuple[Annotated[float, Field(ge=0.0, lt=1.0)], ...], Field(strict=False, min_length=1)]


class Section(BaseModel):
    """A part of the parameters: strict, frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def contradictions(self) -> Iterator[str]:
        """Faults between values that are each sound."""
        yield from ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if faults := list(self.contradictions()):
            raise ValueError("; ".join(faults))
        return self


class Data(Section):
    """How images are read and how the clean ones are shared out."""

    image_size: Annotated[int, Field(ge=64, le=1024)]
    channels: Literal["auto", "grey", "rgb"]
    train: Rate
    validation: Rate
    calibration: Rate
    max_megapixels: Annotated[float, Field(gt=0.0)]

    @field_validator("image_size")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError("allowed: 64, 128, 256, 512 or 1024")
        return value

    def contradictions(self) -> Iterator[str]:
        total = self.train + self.validation + self.calibration
        if abs(total - 1.0) > 1e-6:
            yield f"train + validation + calibration is {total:g}; allowed: 1"


class Validation(Section):
    """What the clean images must be like before anything is trained on them."""

    min_train: Positive
    min_validation: Positive
    min_calibration: Positive
    min_std: Share
    max_saturated: Share
    min_sharpness: Share  # share of the median sharpness of the category's clean images


class Network(Section):
    """The autoencoder: see aesc/network.py."""

    skip: Literal["add", "none", "concat"]
    first_skip: Annotated[int, Field(ge=0)] = 0  # encoder level; older records do not say
    dropout: Rates
    dropout_in_training: bool
    segmentation: bool = False  # a head that learns where the corruption is; older records do not say


class Structured(Section):
    """The blobs of the corruption "structured": see aesc/structured.py."""

    blobs: Annotated[int, Field(ge=1, le=16)]  # at most, on one image
    size: Range  # semi-major axes, shares of the image side
    aspect: Annotated[float, Field(gt=0.0, le=1.0)]  # of the most slender blob
    bend: Annotated[float, Field(ge=0.0, le=1.0)]  # of the long axis, semi-axes at its end
    irregularity: Annotated[float, Field(ge=0.0, le=1.0)]  # of the outline
    softest_edge: Share  # of the image side
    on_plain_ground: Share = 1.0  # of the centres, at most, where an image shows nothing; older records do not say
    opacity: Annotated[tuple[Share, Share], Field(strict=False)]
    fills: Annotated[tuple[Fill, ...], Field(strict=False, min_length=1)]

    def contradictions(self) -> Iterator[str]:
        for key in ("size", "opacity"):
            low, high = getattr(self, key)
            if low > high:
                yield f"{key} is [{low:g}, {high:g}]; allowed: the smaller number first"


class Corruption(Section):
    """The synthetic defect that training images carry: see aesc/corruption.py."""

    kind: CorruptionKind
    size: Range  # semi-axes, shares of the image side
    grey: Annotated[
        tuple[Annotated[float, Field(ge=0, le=255)], Annotated[float, Field(ge=0, le=255)]], Field(strict=False)
    ]
    noise_variance: Annotated[float, Field(ge=0.0, le=0.1)]  # of the filling, in [0, 1] units
    irregularity: Annotated[float, Field(ge=0.0, le=0.9)]
    blur: Annotated[float, Field(ge=0.0, le=1.0)]  # sigma of the edge, share of the larger axis
    colour: bool
    gaussian_std: Annotated[float, Field(gt=0.0, le=1.0)]  # of the corruption "gaussian"
    structured: Structured
    kept_noise: Annotated[float, Field(ge=0.0, le=0.5)]  # most standard deviation of noise on input and target alike

    @property
    def reach(self) -> float:
        """How far the largest stain reaches from its centre, in image sides."""
        return self.size[1] * (1.0 + self.irregularity + BLUR_REACH * self.blur)

    def contradictions(self) -> Iterator[str]:
        for key in ("size", "grey"):
            low, high = getattr(self, key)
            if low > high:
                yield f"{key} is [{low:g}, {high:g}]; allowed: the smaller number first"
        if self.reach > MOST_REACH:
            yield (
                f"the largest stain reaches {self.reach:.2g} image sides from its centre "
                f"(size[1] * (1 + irregularity + {BLUR_REACH:g} blur)); allowed: at most {MOST_REACH:g}, it must fit in"
            )


class Training(Section):
    """The optimiser's schedule: see aesc/training.py."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]
    epochs: Positive
    images_per_epoch: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)]
    schedule: Literal["plateau", "cosine"]
    patience: Positive
    factor: Rate
    turns: TurnsWish = "none"  # records of before there were any do not say
    loss: Loss = "squared"  # records of before there was another one do not say
    corrupted_weight: Share  # of the loss, for the corrupted pixels; 0 weighs every pixel alike
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
    precision: Literal["auto", "float32", "bfloat16"]


class Detection(Section):
    """From an image to maps and scores: see aesc/detection.py."""

    strategy: Literal["auto", "residual", "uncertainty", "combined"]
    passes: Annotated[int, Field(ge=2)]
    residual: ResidualKind
    whiten: bool = False  # pixels in units of how clean images' differences vary; older operating points do not say
    normalise: bool  # maps against what clean images show at each place
    smoothing: Annotated[float, Field(ge=0.0)]  # sigma in pixels of the network's image, 0 is off
    image_score: ImageScore
    top_fraction: Rate


class Calibration(Section):
    """The promise: see aesc/calibration.py."""

    false_alarm_rate: Rate
    abstention_rate: Annotated[float, Field(ge=0.0, lt=1.0)]  # most clean images that abstain: see aesc/abstention.py
    on_shortage: Literal["attain", "stop"]
    held_out: Annotated[tuple[LocalKind, ...], Field(strict=False, min_length=1)]
    residuals: Annotated[tuple[ResidualKind, ...], Field(strict=False)] = ()  # that may take detection.residual's place
    tie: Share  # a lead in AUROC below this, or below its standard error, is a tie: the strategy residual wins it, and
    # among residuals that of detection


class Evaluation(Section):
    """How well the detector is measured: see aesc/metrics.py."""

    aupro_limit: Rate
    bootstrap: Annotated[int, Field(ge=0)]
    confidence: Rate


class Arrivals(Section):
    """What new images must be like to be taken in, and when they are worth a retraining: see flows/ingest.py."""

    settle_seconds: Annotated[float, Field(ge=0.0)]  # an inbox file that changed more recently is still being written
    band_width: Annotated[float, Field(gt=0.0)]  # interquartile ranges beyond the quartiles of the accepted images
    band_images: Annotated[int, Field(ge=4)]  # accepted images that make a band
    near_duplicate_bits: Annotated[int, Field(ge=0, le=128)]  # of the 256 of a perceptual hash
    retrain_images: Positive  # new images that are worth a retraining,
    retrain_share: Annotated[float, Field(gt=0.0)]  # or such a share of those already trained on,
    retrain_days: Annotated[float, Field(gt=0.0)]  # or a champion of this age


class Promotion(Section):
    """When a challenger takes the champion's place: see aesc/court.py."""

    approval: Literal["automatic", "required"]
    primary: Literal["image_auroc", "pixel_auroc", "aupro"]
    bootstrap: Annotated[int, Field(ge=100)]
    confidence: Rate
    margin: Share  # how much worse the challenger may be, by the interval's unfavourable end: each defect type, pixels
    margins: Annotated[tuple[tuple[str, Share], ...], Field(strict=False)]  # of single defect types: [[scratch, 0.01]]
    detection_margin: Share
    false_alarm_margin: Share
    least_image_auroc: Share | None
    least_aupro: Share | None
    least_detection_rate: Share | None
    most_false_alarm_rate: Share | None

    @field_validator("margins", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        # YAML and JSON have lists only.
        if isinstance(value, list):
            return tuple(tuple(pair) if isinstance(pair, list) else pair for pair in value)
        return value


class Monitoring(Section):
    """How a champion is watched: see aesc/drift.py and aesc/detectability.py."""

    recent_images: Annotated[int, Field(ge=20)]
    least_images: Annotated[int, Field(ge=5)]
    false_alarm_rate: Rate  # of all looks of a champion's life together
    sizes: Annotated[tuple[Annotated[float, Field(ge=0.5)], ...], Field(strict=False, min_length=2)]
    contrasts: Annotated[tuple[Annotated[float, Field(gt=0.0, le=127.0)], ...], Field(strict=False, min_length=1)]
    reference_contrast: float
    find_rate: Rate
    images: Annotated[int, Field(ge=5)]
    bootstrap: Annotated[int, Field(ge=100)]
    confidence: Rate
    tolerance: Annotated[float, Field(ge=0.0)]

    def contradictions(self) -> Iterator[str]:
        for key in ("sizes", "contrasts"):
            values = getattr(self, key)
            if list(values) != sorted(set(values)):
                yield f"{key} is {list(values)}; allowed: ascending, each number once"
        if self.reference_contrast not in self.contrasts:
            yield f"reference_contrast is {self.reference_contrast:g}; allowed: one of contrasts {list(self.contrasts)}"
        if self.least_images > self.recent_images:
            yield f"least_images is {self.least_images}; allowed: at most recent_images, which is {self.recent_images}"


class Params(Section):
    """All parameters of one run."""

    data: Data
    validation: Validation
    network: Network
    corruption: Corruption
    training: Training
    detection: Detection
    calibration: Calibration
    evaluation: Evaluation
    arrivals: Arrivals
    promotion: Promotion
    monitoring: Monitoring

    def contradictions(self) -> Iterator[str]:
        if self.detection.strategy in ("uncertainty", "combined") and not any(self.network.dropout):
            yield (
                f"detection.strategy is {self.detection.strategy} but every network.dropout is 0; "
                "allowed: a rate above 0, or strategy residual"
            )
        if self.network.segmentation and self.corruption.kind in ("none", "gaussian"):
            yield (
                f"network.segmentation is true but corruption.kind is {self.corruption.kind}, which has no place to "
                "mark; allowed: another corruption, or network.segmentation false"
            )
        for fault, there in (
            ("detection.residual is", self.detection.residual == "features"),
            ("calibration.residuals has", "features" in set(self.calibration.residuals)),
        ):
            if self.detection.whiten and there:
                yield (
                    f"detection.whiten is true but {fault} features, which compares no pixels; "
                    "allowed: pixels, both or all, or whiten false"
                )
        if set(self.calibration.held_out) == {self.corruption.kind}:
            others = [kind for kind in get_args(LocalKind) if kind != self.corruption.kind]
            yield (
                f"calibration.held_out is only {self.corruption.kind}, which training uses (corruption.kind); "
                f"allowed: another one, {' or '.join(others)}"
            )
        # A side below the smallest allowed has a fault of its own.
        reach = self.monitoring.sizes[-1] * (1.0 + self.corruption.irregularity) / max(self.data.image_size, 64)
        if reach > MOST_REACH:
            yield (
                f"the largest of monitoring.sizes reaches {reach:.2g} image sides from its centre "
                f"(size * (1 + corruption.irregularity) / data.image_size); allowed: at most {MOST_REACH:g}"
            )
        if self.training.batch_size > self.training.images_per_epoch:
            yield (
                f"training.batch_size is {self.training.batch_size} but training.images_per_epoch is only "
                f"{self.training.images_per_epoch}; allowed: at most images_per_epoch"
            )

    def flat(self) -> dict[str, Any]:
        """Dotted key to value, as trackers want it."""
        return {".".join(path): value for path, value in _leaves(self.model_dump(mode="json"))}


def _leaves(node: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value
