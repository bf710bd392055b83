"""30 MC-Dropout passes of one image and of 16, 256 x 256 RGB: aesc.detection against 30 plain passes kept in a list."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from aesc.detection import mc_dropout_variance
from aesc.network import AESc, build_network
from benchmarks.reference.mc_dropout import plain_variance
from benchmarks.reference.network import PlainAESc, copy_weights
from benchmarks.report import alternate, peak_megabytes, report, timed

PASSES, ROUNDS = 30, {1: 4, 16: 1}
RATES = (0.0, 0.0, 0.1, 0.2, 0.3, 0.4)


def main() -> None:
    """Measure and print."""
    if len(sys.argv) == 3:  # as a child: peak memory of one way
        print(json.dumps(_peak(sys.argv[1], int(sys.argv[2]))))
        return
    network, plain = networks()
    seconds, ratios = {}, {}
    for batch, rounds in ROUNDS.items():
        images = torch.rand(batch, 3, 256, 256, generator=torch.Generator().manual_seed(1))
        fast = images.contiguous(memory_format=torch.channels_last)
        ours, reference = alternate(
            lambda fast=fast: mc_dropout_variance(network, fast, passes=PASSES, seed=1),
            lambda images=images: plain_variance(plain, images, RATES, passes=PASSES, stream=_stream()),
            rounds=rounds,
        )
        seconds[batch], ratios[batch] = ours, reference / ours
    images = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    passes = {
        f"seconds_{count}_passes": min(
            timed(lambda count=count: mc_dropout_variance(network, images, passes=count, seed=1)) for _ in range(3)
        )
        for count in (10, 100)
    }
    memory = {
        f"megabytes_{way}_{batch}": _peak_in_a_child(way, batch)
        for way in ("one_pass", "own_pass", "ours", "reference")
        for batch in ROUNDS
    }
    report(
        "mc_dropout",
        value=16 / seconds[16],
        unit="images/s",
        ratio=min(ratios.values()),
        n=min(ROUNDS.values()),
        batch_16_ratio=ratios[16],
        one_image_ratio=ratios[1],
        one_image_seconds=seconds[1],
        **passes,
        **memory,
    )


def networks() -> tuple[AESc, PlainAESc]:
    """The project's network and the plain one with the same weights."""
    stream = torch.Generator().manual_seed(0)
    network = build_network(image_size=256, channels=3, skip="add", dropout=RATES, generator=stream).eval()
    plain = PlainAESc().eval()
    copy_weights(plain, network.state_dict())
    return network, plain


def _stream() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _peak_in_a_child(way: str, batch: int) -> float:
    done = subprocess.run([sys.executable, __file__, way, str(batch)], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def _peak(way: str, batch: int) -> float:
    """Megabytes of resident memory at the peak, above those with the networks and the images loaded."""
    network, plain = networks()
    images = torch.rand(batch, 3, 256, 256, generator=_stream())
    before = peak_megabytes()
    with torch.inference_mode():
        if way == "one_pass":
            plain(images)
        elif way == "own_pass":
            network(images)
        elif way == "ours":
            mc_dropout_variance(network, images, passes=PASSES, seed=1)
        else:
            plain_variance(plain, images, RATES, passes=PASSES, stream=_stream())
    return peak_megabytes() - before


if __name__ == "__main__":
    main()
