from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aesc import training
from aesc.errors import AescError
from aesc.network import AESc
from aesc.params import Params
from aesc.params_file import load_params
from aesc.pixels import Pixels
from aesc.training import Epoch, Trained, fit, validation_psnr

ROOT = Path(__file__).parents[2]
SIDE = 64
CPU = torch.device("cpu")


def params(*overrides: str) -> Params:
    small = ["data.image_size=64", "training.images_per_epoch=12", "training.batch_size=4", "training.epochs=4"]
    fixed = ["training.device=cpu", "training.precision=float32", "training.learning_rate=0.002"]
    return load_params(ROOT / "params.yaml", preset="ablation", overrides=[*small, *fixed, *overrides])


def clean(count: int, *, seed: int, channels: int = 1) -> Pixels:
    """Smooth shading with a few bands: something that a small network can learn."""
    rng = np.random.Generator(np.random.PCG64(seed))
    grid = np.arange(SIDE) / SIDE
    phase = rng.uniform(0.0, 0.5, (count, 1, 1, channels))
    shade = 0.5 + 0.3 * np.sin(2 * np.pi * (2 * grid[:, None, None] + phase)) * np.cos(3 * grid[None, :, None])
    store = (255 * shade).astype(np.uint8)
    return Pixels(store, np.arange(count), CPU)


def trained(settings: Params, **options: Any) -> Trained:
    return fit(clean(6, seed=1), clean(3, seed=2), channels=1, params=settings, device=CPU, **options)


def weights(result: Trained) -> dict[str, Tensor]:
    return result.network.state_dict()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def numbers(history: list[Epoch]) -> list[dict[str, float]]:
    return [{key: value for key, value in asdict(epoch).items() if key != "seconds"} for epoch in history]


class InterruptedTrainingError(Exception):
    pass


def stop_after(epochs: int) -> Callable[[Epoch], None]:
    def on_epoch(epoch: Epoch) -> None:
        if epoch.epoch + 1 == epochs:
            raise InterruptedTrainingError

    return on_epoch


def assert_equal(first: Any, second: Any, where: str = "checkpoint") -> None:
    """Bit for bit, through nested containers."""
    assert type(first) is type(second), where
    if isinstance(first, Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            if key != "seconds":
                assert_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, (left, right) in enumerate(zip(first, second, strict=True)):
            assert_equal(left, right, f"{where}[{index}]")
    else:
        assert first == second, where


# Learning


def test_the_loss_falls_and_the_reconstruction_becomes_a_clean_image() -> None:
    settings = params("training.epochs=6", "training.images_per_epoch=32", "training.learning_rate=0.01")
    result = trained(settings)
    losses = [epoch.loss for epoch in result.history]
    assert losses[-1] < 0.3 * losses[0]
    assert result.history[result.best_epoch].psnr > result.history[0].psnr + 3.0
    assert [epoch.epoch for epoch in result.history] == list(range(6))
    assert [epoch.images_seen for epoch in result.history] == [32 * (epoch + 1) for epoch in range(6)]
    assert all(
        before.seconds < after.seconds for before, after in zip(result.history, result.history[1:], strict=False)
    )
    assert not result.network.training


def test_the_validation_psnr_is_that_of_the_mean_squared_error_and_repeats_itself() -> None:
    class Half(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full_like(images, 0.5)

    pixels = clean(7, seed=3)
    batch = next(pixels.batches(7))
    expected = -10.0 * math.log10((batch - 0.5).square().mean().item())
    assert validation_psnr(Half(), pixels, params=params(), device=CPU) == pytest.approx(expected, abs=1e-4)  # type: ignore[arg-type]
    network = weights_network()
    statistics = network.encoder[0].norm.running_mean.clone()
    first, again = (validation_psnr(network, pixels, params=params(), device=CPU) for _ in range(2))
    assert first == again
    assert torch.equal(network.encoder[0].norm.running_mean, statistics)


def weights_network() -> AESc:
    return training._start(1, params(), CPU).network


def test_images_come_in_whole_permutations() -> None:
    order = training._order(5, 13, seed=1, epoch=0)
    assert sorted(order[:5].tolist()) == sorted(order[5:10].tolist()) == list(range(5))
    assert len(order) == 13
    assert not torch.equal(order[:5], order[5:10])
    assert not torch.equal(order, training._order(5, 13, seed=1, epoch=1))
    assert torch.equal(order, training._order(5, 13, seed=1, epoch=0))


# Repeating


def test_one_seed_gives_identical_weights_and_another_one_others() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr,index]
    first = trained(params("training.epochs=2"))
    assert torch.equal(torch.get_rng_state(), torch_state), "a global generator was drawn from"
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]
    torch.rand(3)
    again, other = trained(params("training.epochs=2")), trained(params("training.epochs=2", "training.seed=2"))
    assert same(weights(first), weights(again))
    assert numbers(first.history) == numbers(again.history)
    assert not same(weights(first), weights(other))


def test_dropout_in_training_matters() -> None:
    on, off = (
        trained(params("training.epochs=1", f"network.dropout_in_training={flag}")) for flag in ("true", "false")
    )
    assert not same(weights(on), weights(off))
    silent = trained(params("training.epochs=1", "network.dropout=[0.0]"))
    assert same(weights(off), weights(silent))


def test_resuming_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The best epoch lies before the interruption and the rate falls after it, so that there is a state to lose.
    psnr = iter([1.0, 2.0, 1.5, 1.2, *(1.0, 2.0), *(1.5, 1.2)])
    monkeypatch.setattr(training, "validation_psnr", lambda *_, **__: next(psnr))
    settings = params("training.patience=2")
    whole = trained(settings, checkpoint=tmp_path / "whole.pt", checkpoint_seconds=0.0)
    with pytest.raises(InterruptedTrainingError):
        trained(settings, checkpoint=tmp_path / "parts.pt", checkpoint_seconds=0.0, on_epoch=stop_after(2))
    seen: list[int] = []
    resumed = trained(
        settings,
        checkpoint=tmp_path / "parts.pt",
        checkpoint_seconds=0.0,
        on_epoch=lambda epoch: seen.append(epoch.epoch),
    )
    assert resumed.resumed_at == 2
    assert seen == [2, 3]
    assert whole.resumed_at == 0
    assert numbers(resumed.history) == numbers(whole.history)
    assert torch.equal(resumed.losses, whole.losses)
    assert len(whole.losses) == 12
    assert resumed.best_epoch == whole.best_epoch == 1
    assert same(weights(resumed), weights(whole))
    # Everything that a fifth epoch would start from: last and best weights, optimiser, schedule.
    first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "parts.pt"))
    assert {"network", "optimiser", "schedule", "best"} <= first.keys()
    assert first["optimiser"]["param_groups"][0]["lr"] < 0.002, "the schedule did nothing: this test is blind to it"
    assert not same(first["network"], first["best"])
    assert_equal(first, second)


def test_images_that_look_alike_turned_are_learnt_from_in_all_positions_and_resuming_is_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texture = Pixels(rng.integers(0, 256, (24, SIDE, SIDE, 1)).astype(np.uint8), np.arange(24), CPU)

    def run(wish: str, **options: Any) -> Trained:
        settings = params("training.images_per_epoch=8", f"training.turns={wish}")
        return fit(texture, clean(3, seed=2), channels=1, params=settings, device=CPU, **options)

    whole, unturned = run("auto"), run("none")
    assert whole.turned_by == [0, 90, 180, 270]
    assert unturned.turned_by == [0]
    assert not torch.equal(whole.losses, unturned.losses)
    with pytest.raises(InterruptedTrainingError):
        run("auto", checkpoint=tmp_path / "parts.pt", checkpoint_seconds=0.0, on_epoch=stop_after(2))
    resumed = run("auto", checkpoint=tmp_path / "parts.pt", checkpoint_seconds=0.0)
    assert resumed.resumed_at == 2
    assert resumed.turned_by == whole.turned_by
    assert torch.equal(resumed.losses, whole.losses)
    assert same(weights(resumed), weights(whole))


def test_images_with_a_direction_are_learnt_from_as_they_are() -> None:
    settings = params("training.turns=auto")
    directed = fit(clean(24, seed=1), clean(3, seed=2), channels=1, params=settings, device=CPU)
    unturned = fit(clean(24, seed=1), clean(3, seed=2), channels=1, params=params(), device=CPU)
    assert directed.turned_by == [0]
    assert torch.equal(directed.losses, unturned.losses)


def test_resuming_the_best_recipe_is_exact_and_its_rate_rises_and_falls(tmp_path: Path) -> None:
    recipe = ("corruption.kind=structured", "corruption.kept_noise=0.05", "network.dropout_in_training=true")
    recipe += ("network.segmentation=true", "training.loss=charbonnier")
    settings = params(*recipe, "training.schedule=cosine", "training.corrupted_weight=0.5")
    whole = trained(settings)
    with pytest.raises(InterruptedTrainingError):
        trained(settings, checkpoint=tmp_path / "parts.pt", checkpoint_seconds=0.0, on_epoch=stop_after(2))
    resumed = trained(settings, checkpoint=tmp_path / "parts.pt", checkpoint_seconds=0.0)
    assert resumed.resumed_at == 2
    assert torch.equal(resumed.losses, whole.losses)
    assert same(weights(resumed), weights(whole))
    rates = [epoch.learning_rate for epoch in whole.history]
    assert rates == sorted(rates, reverse=True)
    assert 0.002 > rates[0] > 5 * rates[-1]
    assert numbers(trained(params(*recipe)).history) != numbers(whole.history)


def test_what_was_finished_is_not_trained_again(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    first = trained(params("training.epochs=2"), checkpoint=checkpoint)
    seen: list[Epoch] = []
    again = trained(params("training.epochs=2"), checkpoint=checkpoint, on_epoch=seen.append)
    assert seen == []
    assert again.resumed_at == 2
    assert not again.network.training
    assert torch.equal(again.losses, first.losses)
    assert same(weights(first), weights(again))


def test_checkpoints_are_written_after_the_first_and_the_last_epoch_and_not_too_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = training._save

    def spy(state: Any, path: Path, fingerprint: str) -> None:
        saved.append(state.history[-1].epoch)
        save(state, path, fingerprint)

    monkeypatch.setattr(training, "_save", spy)
    trained(params(), checkpoint=tmp_path / "checkpoint.pt", checkpoint_seconds=3600.0)
    assert saved == [0, 3]


# The trace of losses


def test_the_trace_has_every_step_and_its_mean_is_the_epochs_loss() -> None:
    result = trained(params("training.epochs=2", "training.images_per_epoch=10"))  # batches of 4, 4 and 2
    assert result.losses.dtype == torch.float32
    assert len(result.losses) == 6
    assert len(result.losses.unique()) == 6
    for epoch, losses in zip(result.history, result.losses.double().split(3), strict=True):
        assert epoch.loss == pytest.approx(float((losses * torch.tensor([4, 4, 2])).sum() / 10), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 4, 12, 20])
def test_a_prefix_has_the_losses_of_the_whole_run(steps: int) -> None:
    """Also past the end of an epoch, where the schedule may have changed the rate."""
    settings = params("training.patience=1")
    whole, prefix = trained(settings), trained(settings, most_steps=steps)
    assert torch.equal(prefix.losses, whole.losses[:steps])


# Best weights and schedule


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> list[dict[str, Tensor]]:
    """Have the validation PSNR take `values`; the weights at each epoch."""
    seen: list[dict[str, Tensor]] = []

    def psnr(network: AESc, *_: Any, **__: Any) -> float:
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return values[len(seen) - 1]

    monkeypatch.setattr(training, "validation_psnr", psnr)
    return seen


@pytest.mark.parametrize(("psnr", "best"), [([10.0, 20.0, 15.0, 19.0], 1), ([-3.0, -1.0, -2.0, 0.5], 3)])
def test_the_best_weights_are_kept_not_the_last(monkeypatch: pytest.MonkeyPatch, psnr: list[float], best: int) -> None:
    seen = scripted(monkeypatch, psnr)
    result = trained(params())
    assert result.best_epoch == best
    assert same(weights(result), seen[best])
    assert not any(same(seen[best], other) for epoch, other in enumerate(seen) if epoch != best)


def test_the_rate_falls_after_patience_epochs_without_a_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [10.0, 9.0, 10.0, 11.0, 11.0, 11.0, 10.0])
    result = trained(params("training.epochs=7", "training.patience=2", "training.factor=0.5", "training.seed=3"))
    rates = [epoch.learning_rate / 0.002 for epoch in result.history]
    #                             fell after epochs 1, 2       and 4, 5
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25])


# Checkpoints that do not fit


def test_a_checkpoint_with_another_fingerprint_is_ignored(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    trained(params("training.epochs=1", "training.seed=9"), checkpoint=checkpoint, fingerprint="other")
    result = trained(params("training.epochs=1"), checkpoint=checkpoint, fingerprint="mine")
    assert result.resumed_at == 0
    assert same(weights(result), weights(trained(params("training.epochs=1"))))
    assert torch.load(checkpoint, weights_only=True)["fingerprint"] == "mine"


def damaged(how: str) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-2000])

    return {
        "cut off": cut,
        "empty": lambda path: path.write_bytes(b"") and None,
        "text": lambda path: path.write_text("not a checkpoint", encoding="utf-8") and None,
        "something else": lambda path: torch.save([1, 2], path),
        "code": lambda path: torch.save(
            {"version": 1, "fingerprint": "", "network": InterruptedTrainingError("boo")}, path
        ),
    }[how]


@pytest.mark.parametrize("how", ["cut off", "empty", "text", "something else", "code"])
def test_a_damaged_checkpoint_is_said(tmp_path: Path, how: str) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    trained(params("training.epochs=1"), checkpoint=checkpoint)
    damaged(how)(checkpoint)
    with pytest.raises(AescError) as caught:
        trained(params("training.epochs=1"), checkpoint=checkpoint)
    assert caught.value.where == str(checkpoint)
    assert "delete" in caught.value.todo


def test_a_disk_that_fills_up_keeps_the_old_checkpoint_and_training_goes_on_from_it(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits are a thing of Unix")
    checkpoint = tmp_path / "checkpoint.pt"
    kept: list[bytes] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(_: Epoch) -> None:
        kept.append(checkpoint.read_bytes())
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept[0]) // 2, hard))  # Python ignores SIGXFSZ: writes fail

    try:
        with pytest.raises(AescError, match="too large") as caught:
            trained(params(), checkpoint=checkpoint, checkpoint_seconds=0.0, on_epoch=fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.where == str(checkpoint)
    assert len(kept) == 1
    assert checkpoint.read_bytes() == kept[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]
    resumed = trained(params(), checkpoint=checkpoint)
    assert resumed.resumed_at == 1
    assert same(weights(resumed), weights(trained(params())))


# Going wrong


def test_a_loss_that_is_no_number_is_said() -> None:
    settings = params()
    wild = settings.model_copy(update={"training": settings.training.model_copy(update={"learning_rate": 1e30})})
    with pytest.raises(AescError, match=r"became (nan|inf|-inf) in epoch \d") as caught:
        trained(wild)
    assert caught.value.where == "training.learning_rate"
    assert "--set training.learning_rate" in caught.value.todo


def test_a_psnr_that_is_no_number_never_counts_as_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [math.nan] * 4)
    with pytest.raises(AescError, match="PSNR became nan in epoch 0"):
        trained(params())
