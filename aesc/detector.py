"""A detector as it is served: weights and operating point as one thing; an image in, a verdict and maps out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch

from aesc.device import multiply_in_float32, resolve_device
from aesc.errors import AescError
from aesc.images import Image, read_image, to_network_input
from aesc.network import AESc
from aesc.normalisation import PlaceMaps, load_place_maps, save_place_maps
from aesc.operating_point import OperatingPoint
from aesc.params import STRATEGIES, Strategy
from aesc.residual import ResidualPath
from aesc.scoring import INFERENCE_BATCH, Scorer
from aesc.weights import load_network, save_network

Verdict = Literal["pass", "reject", "abstain"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
RESIDUAL_ALONE: tuple[Strategy, ...] = ("residual",)
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """What a detector says of one image.

    score is compared with threshold, see `verdict`. `scores` and `maps` have every strategy that was computed: all of
    them, or "residual" alone where `lazy` was asked for and the verdict needed no more.
    image and reconstruction are side x side x channels in [0, 1]; the maps are side x side in the network's pixels;
    mask is where the chosen strategy's map exceeds the pixel threshold.
    """

    strategy: Strategy
    score: float
    threshold: float
    verdict: Verdict
    scores: dict[Strategy, float]
    image: FloatArray
    reconstruction: FloatArray
    maps: dict[Strategy, FloatArray]
    mask: npt.NDArray[np.bool_]

    @property
    def anomaly_map(self) -> FloatArray:
        """The chosen strategy's map, which the verdict goes by."""
        return self.maps[self.strategy]


class Detector:
    """A network with its operating point.

    Raises:
        AescError: the operating point belongs to other weights (on `load`).
    """

    def __init__(self, network: AESc, operating_point: OperatingPoint, place_maps: PlaceMaps | None = None) -> None:
        self.operating_point = operating_point
        self._network = network
        self._place_maps = place_maps or {}
        self._device = next(network.parameters()).device
        self._scorer = Scorer(
            network,
            detection=operating_point.detection,
            seed=operating_point.seed,
            scales=operating_point.scales,
            place_maps=self._place_maps,
        )

    @property
    def residual_path(self) -> ResidualPath:
        """What is deterministic in it, as a module."""
        return self._scorer.residual_path

    def save(self, folder: Path) -> None:
        """Write weights, normalisation and operating point into `folder`."""
        save_network(self._network, folder)
        save_place_maps(self._place_maps, folder)
        self.operating_point.save(folder)

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Detector:
        """Read what `save` wrote, on `device` (auto, cpu, cuda, cuda:N, mps)."""
        operating_point = OperatingPoint.load(folder)
        multiply_in_float32()
        network, description = load_network(folder, device=resolve_device(device))
        if description.weights_sha256 != operating_point.weights_sha256:
            raise AescError(
                folder,
                f"the operating point was calibrated for weights {operating_point.weights_sha256[:12]}..., "
                f"here are {description.weights_sha256[:12]}...",
                allowed="the weights that were calibrated",
                todo="fetch the model version again, or calibrate again",
            )
        place_maps = load_place_maps(
            folder, sha256=operating_point.divisors_sha256, device=next(network.parameters()).device
        )
        return cls(network.keep_phases(), operating_point, place_maps)

    def predict(self, source: Path | Image, *, strategy: Strategy | None = None, lazy: bool = False) -> Prediction:
        """The prediction for one image file or decoded image; see `predict_batch`."""
        return self.predict_batch([self.preprocess(source)], strategy=strategy, lazy=lazy)[0]

    def preprocess(self, source: Path | Image) -> npt.NDArray[np.uint8]:
        """side x side x channels as the network wants it.

        Raises:
            AescError: the file cannot be read as an image.
        """
        point = self.operating_point
        image = source if isinstance(source, Image) else read_image(source, max_megapixels=point.max_megapixels)
        return to_network_input(image, size=point.image_size, channels=point.channels)

    def predict_batch(
        self, images: list[npt.NDArray[np.uint8]], *, strategy: Strategy | None = None, lazy: bool = False
    ) -> list[Prediction]:
        """Predictions for preprocessed images; each is the same whatever else is in the batch.

        Args:
            images: from `preprocess`.
            strategy: another one than the operating point's; its own thresholds are used.
            lazy: by the residual, run the stochastic passes only for images near its threshold, where an uncertainty
                can change the verdict. Verdicts and the scores that are computed stay the same.
        """
        wish = strategy or self.operating_point.strategy
        found: list[Prediction] = []
        for start in range(0, len(images), INFERENCE_BATCH):
            found += self._predict(np.stack(images[start : start + INFERENCE_BATCH]), wish, lazy=lazy)
        return found

    def scores(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[float]:
        """The image scores by the calibrated strategy, as `predict_batch` has them: without stochastic passes where
        that strategy needs none."""
        strategy = self.operating_point.strategy
        wanted = RESIDUAL_ALONE if strategy == "residual" else STRATEGIES
        batches = (images[start : start + INFERENCE_BATCH] for start in range(0, len(images), INFERENCE_BATCH))
        return [seen.scores[strategy] for batch in batches for seen in self._see(np.stack(batch), wanted)]

    def _predict(self, images: npt.NDArray[np.uint8], strategy: Strategy, *, lazy: bool) -> list[Prediction]:
        point = self.operating_point
        if lazy and strategy == "residual":
            found = self._see(images, RESIDUAL_ALONE)
            band = point.abstentions[strategy]
            if near := [number for number, one in enumerate(found) if band.near(one.scores[strategy])]:
                for number, seen in zip(near, self._see(images[near], STRATEGIES), strict=True):
                    found[number] = seen
        else:
            found = self._see(images, STRATEGIES)
        pixel_threshold = point.pixel_promises[strategy].threshold
        return [
            Prediction(
                strategy=strategy,
                score=seen.scores[strategy],
                threshold=point.image_promises[strategy].threshold,
                verdict=verdict(seen.scores, point, strategy),
                scores=seen.scores,
                image=image.astype(np.float32) / np.float32(255.0),
                reconstruction=seen.reconstruction,
                maps=seen.maps,
                mask=seen.maps[strategy] > pixel_threshold,
            )
            for image, seen in zip(images, found, strict=True)
        ]

    def _see(self, images: npt.NDArray[np.uint8], strategies: Collection[Strategy]) -> list[_Seen]:
        batch = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float() / 255.0
        scored = self._scorer(batch, strategies=strategies)
        kind = self.operating_point.detection.image_score
        maps = {name: values.cpu().numpy() for name, values in scored.maps.items()}
        scores = {name: scored.scores[f"{name}_{kind}"].cpu().tolist() for name in maps}
        reconstruction = scored.reconstruction.permute(0, 2, 3, 1).cpu().numpy()
        return [
            _Seen(
                {name: values[i] for name, values in scores.items()},
                {name: values[i] for name, values in maps.items()},
                reconstruction[i],
            )
            for i in range(len(images))
        ]


class _Seen(NamedTuple):
    """One image's scores, maps and reconstruction, by the strategies that were computed."""

    scores: dict[Strategy, float]
    maps: dict[Strategy, FloatArray]
    reconstruction: FloatArray


def verdict(scores: Mapping[Strategy, float], point: OperatingPoint, strategy: Strategy | None = None) -> Verdict:
    """Abstain where residual and uncertainty disagree near the threshold, else reject above it.

    They disagree if exactly one of the two exceeds its own threshold. Above is strictly above: that is what the
    conformal promise is about. Every rejection is above the threshold, so abstaining never breaks it. NaN is rejected.

    Args:
        scores: of one image by strategy: that of `strategy`; where it is near its threshold, the others too.
        point: thresholds and bands.
        strategy: the one that decides; by default the operating point's.
    """
    strategy = strategy or point.strategy
    score = scores[strategy]
    if point.abstentions[strategy].near(score):
        alarms = {scores[name] <= point.image_promises[name].threshold for name in ("residual", "uncertainty")}
        if len(alarms) == 2:
            return "abstain"
    return "pass" if score <= point.image_promises[strategy].threshold else "reject"
