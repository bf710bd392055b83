from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from aesc.errors import AescError
from aesc.params import Corruption, Params
from aesc.params_file import load_params

SHIPPED = Path(__file__).parents[2] / "params.yaml"
CONTENT: dict[str, Any] = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
Edit = tuple[str, Any]


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(*edits: Edit) -> Path:
        """The shipped parameters with some keys changed."""
        content = copy.deepcopy(CONTENT)
        for dotted, value in edits:
            *parents, last = dotted.split(".")
            node = content
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


def load(*overrides: str, preset: str = "paper", category: str | None = None) -> Params:
    return load_params(SHIPPED, preset=preset, category=category, overrides=overrides)


def faults(path: Path, *overrides: str, preset: str = "paper", category: str | None = None) -> list[str]:
    """What is said about a file or about overrides, one string a fault."""
    with pytest.raises(AescError) as caught:
        load_params(path, preset=preset, category=category, overrides=overrides)
    assert caught.value.where == str(path)
    assert caught.value.usage, "a fault in the parameters is wrong use: exit code 2"
    count, *lines = caught.value.found.split("\n  ")
    assert count == ("1 error" if len(lines) == 1 else f"{len(lines)} errors")
    return lines


# What is shipped


@pytest.mark.parametrize("preset", sorted(CONTENT["presets"]))
def test_every_preset_loads(preset: str) -> None:
    assert load(preset=preset).training.seed == 1


def test_the_presets_are_those_that_the_documentation_names() -> None:
    assert {"ablation", "best", "demo", "quick", "paper"} == CONTENT["presets"].keys()


def test_the_paper_s_preset_is_the_paper() -> None:
    params = load(preset="paper")
    assert params.data.image_size == 256
    assert params.network.skip == "add"
    assert params.network.dropout == (0.0, 0.0, 0.1, 0.2, 0.3, 0.4)
    assert not params.network.dropout_in_training
    assert params.corruption.kind == "stain"
    assert params.corruption.size == (0.01, 0.12)
    assert params.corruption.grey == (10, 220)
    assert params.corruption.noise_variance == pytest.approx(0.05 / 255, rel=1e-3)
    assert params.corruption.blur == 0.15
    assert (params.training.learning_rate, params.training.batch_size) == (0.01, 16)
    assert (params.training.patience, params.training.factor) == (30, 0.5)
    assert params.training.images_per_epoch == 2000
    assert 150 <= params.training.epochs <= 250
    assert (params.detection.passes, params.detection.image_score) == (30, "l2")
    assert params.data.validation == 0.2


def test_the_ablation_s_preset_trains_as_the_paper_does_but_for_size_and_schedule() -> None:
    paper, small = load(preset="paper"), load(preset="ablation")
    assert small.network == paper.network
    assert small.corruption == paper.corruption.model_copy(update={"blur": 0.0})
    mine = small.training.model_dump(include={"loss", "corrupted_weight", "schedule"})
    assert mine == paper.training.model_dump(include=mine.keys())
    assert not small.detection.whiten


def test_quick_sees_about_20_000_images() -> None:
    training = load(preset="quick").training
    assert training.epochs * training.images_per_epoch == pytest.approx(20_000, rel=0.1)


# Layers


def test_later_layers_override_single_keys(written: Callable[..., Path]) -> None:
    path = written(
        ("defaults.training.epochs", 100),
        ("presets.ablation.training.epochs", 5),
        ("presets.ablation.training.batch_size", 8),
        ("categories.bottle.training.epochs", 7),
        ("categories.bottle.corruption.kind", "drops"),
        ("categories.bottle.calibration.held_out", ["stain"]),
    )
    plain = load_params(path, preset="ablation")
    other = load_params(path, preset="ablation", category="hazelnut")
    bottle = load_params(path, preset="ablation", category="bottle")
    asked = load_params(path, preset="ablation", category="bottle", overrides=["training.epochs=9"])
    assert [params.training.epochs for params in (plain, other, bottle, asked)] == [5, 5, 7, 9]
    assert [params.training.batch_size for params in (plain, other, bottle, asked)] == [8] * 4
    assert [params.corruption.kind for params in (plain, other, bottle)] == ["stain", "stain", "drops"]
    assert bottle.calibration.held_out == ("stain",)
    assert bottle.corruption.size == plain.corruption.size


def test_a_category_with_a_number_for_a_name_is_found(written: Callable[..., Path]) -> None:
    path = written(("categories", {7: {"training": {"epochs": 3}}}))
    assert load_params(path, preset="demo", category="7").training.epochs == 3


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("training.epochs=3", "training.epochs", 3),
        (" training.epochs = 3", "training.epochs", 3),
        ("training.learning_rate=1.0e-3", "training.learning_rate", 0.001),
        ("training.learning_rate=1", "training.learning_rate", 1.0),
        ("corruption.colour=true", "corruption.colour", True),
        ("network.skip=none", "network.skip", "none"),
        ("network.dropout=[0, 0.5]", "network.dropout", [0, 0.5]),
        ("training.device=cuda:1", "training.device", "cuda:1"),
        ("training={epochs: 3}", "training.epochs", 3),
    ],
)
def test_overrides_are_yaml(text: str, key: str, value: object) -> None:
    assert load(text).flat()[key] == value


def test_the_last_of_two_overrides_counts() -> None:
    params = load("training.epochs=3", "training.seed=5", "training.epochs=4")
    assert (params.training.epochs, params.training.seed) == (4, 5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training.epochs", "--set training.epochs: no value; allowed: section.key=value"),
        ("=3", "--set =3: no value; allowed: section.key=value"),
        ("training.epochs=[1", "--set training.epochs=[1: the value is not YAML"),
        ("training.epochs=", "--set training.epochs = None: Input should be a valid integer"),
        ("epochs=3", "--set epochs = 3: unknown key; allowed: data, "),
        ("training.epoch=3", "--set training.epoch = 3: unknown key (did you mean epochs?); allowed: seed, epochs, "),
        ("training.epochs.x=3", "--set training.epochs: Input should be a valid integer"),
    ],
)
def test_a_wrong_override_is_said_as_it_was_typed(text: str, said: str) -> None:
    (fault,) = faults(SHIPPED, text)
    assert fault.startswith(said)


def test_overrides_that_fight_over_a_key_are_said() -> None:
    found = faults(SHIPPED, "training=5", "training.epochs=3")
    assert any(fault.startswith("--set training.epochs=3: training was set to 5 before") for fault in found)
    assert any(fault.startswith("--set training = 5") for fault in found)


# Faults


@pytest.mark.parametrize(
    ("layer", "preset", "category"),
    [("defaults", "paper", None), ("presets.demo", "paper", None), ("categories.bottle", "paper", "hazelnut")],
)
def test_an_unknown_key_names_its_layer_and_the_one_that_was_meant(
    written: Callable[..., Path], layer: str, preset: str, category: str | None
) -> None:
    path = written((f"{layer}.training.learningrate", 0.1), (f"{layer}.trainning", {"epochs": 1}))
    found = faults(path, preset=preset, category=category)
    assert len(found) == 2, "a fault of one place was said more than once, or of an unused layer not at all"
    section, key = sorted(found)
    assert key.startswith(f"{layer}.trainning = {{'epochs': 1}}: unknown key (did you mean training?); allowed: data, ")
    assert section.startswith(f"{layer}.training.learningrate = 0.1: unknown key (did you mean learning_rate?)")


def test_an_unknown_part_of_the_file_is_said(written: Callable[..., Path]) -> None:
    assert faults(written(("default", {}))) == ["default: unknown key; allowed: defaults, presets, categories"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.epochs", "3"),
        ("training.epochs", 3.0),
        ("training.epochs", True),
        ("training.epochs", None),
        ("training.epochs", 0),
        ("training.learning_rate", "0.01"),
        ("training.learning_rate", True),
        ("training.learning_rate", 0.0),
        ("training.learning_rate", float("nan")),
        ("training.device", "gpu"),
        ("training.seed", -1),
        ("network.dropout_in_training", 1),
        ("network.dropout_in_training", "yes"),
        ("network.skip", "Add"),
        ("network.dropout", []),
        ("network.dropout", [0.1, 1.0]),
        ("network.dropout", ["0.1"]),
        ("network.dropout", 0.1),
        ("corruption.size", [0.01]),
        ("corruption.size", [0.01, 0.1, 0.12]),
        ("corruption.grey", [0, 256]),
        ("detection.smoothing", float("inf")),
        ("detection.passes", 1),
        ("calibration.held_out", []),
        ("calibration.held_out", ["gaussian"]),
        ("data.image_size", 100),
        ("data.image_size", 2048),
        ("data.image_size", 32),
        ("data.channels", 3),
    ],
)
def test_types_and_ranges_are_strict(written: Callable[..., Path], key: str, value: object) -> None:
    found = faults(written((f"defaults.{key}", value)))
    assert found
    assert all(fault.startswith(f"defaults.{key} = ") for fault in found), found


@pytest.mark.parametrize("layer", ["presets.demo", "categories.bottle", "presets.demo.training"])
@pytest.mark.parametrize("value", [5, "quick", ["training"]])
def test_a_layer_that_is_no_mapping_is_said(written: Callable[..., Path], layer: str, value: object) -> None:
    (fault,) = faults(written((layer, value)))
    assert fault.startswith(f"{layer} = {value!r}: ")
    assert "a mapping of keys to values" in fault


def test_an_exponent_that_yaml_takes_for_text_is_explained() -> None:
    (fault,) = faults(SHIPPED, "training.learning_rate=1e-3")
    assert fault.startswith("--set training.learning_rate = '1e-3': ")
    assert "1.0e-3" in fault


def test_a_key_that_is_nowhere_is_missing(written: Callable[..., Path]) -> None:
    defaults = copy.deepcopy(CONTENT["defaults"])
    del defaults["detection"]["passes"]
    del defaults["evaluation"]
    found = faults(written(("defaults", defaults)), preset="quick")
    assert "defaults.detection.passes: missing; allowed: a value in defaults or in the preset" in found
    assert any(fault.startswith("defaults.evaluation: missing") for fault in found)


# Contradictions


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("data.train", 0.7), ".data: train + validation + calibration is 1.1; allowed: 1"),
        (("corruption.size", [0.12, 0.01]), ".corruption: size is [0.12, 0.01]; allowed: the smaller number first"),
        (("corruption.grey", [220, 10]), ".corruption: grey is [220, 10]; allowed: the smaller number first"),
        (("corruption.size", [0.1, 0.4]), ".corruption: the largest stain reaches 0."),
        (("corruption.blur", 1.0), ".corruption: the largest stain reaches 0.52 image sides"),
        (("calibration.held_out", ["stain"]), ": calibration.held_out is only stain, which training uses"),
        (("corruption.kind", "scratch"), None),
        (("training.batch_size", 5000), ": training.batch_size is 5000 but training.images_per_epoch is only"),
    ],
)
def test_contradictions_are_said_once_with_the_layer_that_makes_them(
    written: Callable[..., Path], edit: Edit, said: str | None
) -> None:
    key, value = edit
    if said is None:
        load_params(written((f"categories.bottle.{key}", value)), preset="paper", category="bottle")
        return
    for layer in ("categories.bottle", "presets.paper"):
        (fault,) = faults(written((f"{layer}.{key}", value)), category="bottle")
        assert fault.startswith(f"{layer}{said}")
    everywhere = faults(written((f"defaults.{key}", value)))
    assert any(fault.startswith(f"defaults{said}") for fault in everywhere)
    assert len({fault.split(":")[0] for fault in everywhere}) == len(everywhere)
    (fault,) = faults(SHIPPED, f"{key}={json.dumps(value)}")
    assert fault.startswith("--set" + (said.replace(".", " ", 1) if said.startswith(".") else said))


@pytest.mark.parametrize("strategy", ["uncertainty", "combined"])
def test_uncertainty_needs_dropout(strategy: str) -> None:
    (fault,) = faults(SHIPPED, f"detection.strategy={strategy}", "network.dropout=[0, 0.0]")
    assert fault.startswith(f"--set: detection.strategy is {strategy} but every network.dropout is 0; allowed: ")
    assert load("detection.strategy=residual", "network.dropout=[0.0]").network.dropout == (0.0,)


def test_whitening_needs_pixels() -> None:
    (fault,) = faults(SHIPPED, "detection.whiten=true", "detection.residual=features")
    assert fault.startswith("--set: detection.whiten is true but detection.residual is features, which compares no ")
    (fault,) = faults(SHIPPED, "detection.whiten=true", "calibration.residuals=[pixels, features]")
    assert fault.startswith("--set: detection.whiten is true but calibration.residuals has features, which compares ")
    (fault,) = faults(SHIPPED, "detection.whiten=true", "calibration.residuals=features")
    assert fault.startswith("--set calibration.residuals = 'features': ")
    assert load("detection.whiten=true", "calibration.residuals=[pixels, all]").calibration.residuals
    assert load("detection.whiten=true", "detection.residual=both").detection.whiten
    assert load("detection.whiten=true", "detection.residual=all").detection.whiten


def test_a_contradiction_that_a_later_layer_mends_is_none(written: Callable[..., Path]) -> None:
    path = written(("categories.bottle.training.images_per_epoch", 8), ("categories.bottle.training.batch_size", 8))
    assert load_params(path, preset="paper", category="bottle").training.images_per_epoch == 8


def test_all_faults_come_at_once(written: Callable[..., Path]) -> None:
    path = written(
        ("defaults.training.epochs", "many"),
        ("defaults.data.train", 0.5),
        ("defaults.data.max_megapixels", -1),
        ("presets.demo.networks", {"skip": "add"}),
        ("presets.quick.training.factor", 2),
        ("categories.bottle.calibration.held_out", ["stain"]),
        ("categories.screw.network.skip", "multiply"),
        ("extra", 1),
    )
    found = faults(path, "detection.passes=0", "evaluation.bootstraps=3", "training.epochs", category="hazelnut")
    for said in (
        "defaults.training.epochs = 'many'",
        "defaults.data: train + validation + calibration is 0.9",
        "defaults.data.max_megapixels = -1",
        "presets.demo.networks = ",
        "presets.quick.training.factor = 2",
        "categories.bottle: calibration.held_out is only stain",
        "categories.screw.network.skip = 'multiply'",
        "extra: unknown key",
        "--set detection.passes = 0",
        "--set evaluation.bootstraps = 3: unknown key (did you mean bootstrap?)",
        "--set training.epochs: no value",
    ):
        assert sum(fault.startswith(said) for fault in found) == 1, f"{said} in {found}"
    assert len(found) == 11


def test_an_unknown_preset_names_those_that_exist() -> None:
    with pytest.raises(AescError) as caught:
        load(preset="fast")
    assert caught.value.where == "--preset fast"
    assert caught.value.allowed == "ablation, best, demo, paper, quick"
    assert caught.value.usage


@pytest.mark.parametrize("content", ["a: [1", "- 1\n- 2\n", "", "defaults: 5\n", None, "folder"])
def test_a_file_that_is_none_is_said(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "params.yaml"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(AescError) as caught:
        load_params(path, preset="demo")
    assert str(path) in str(caught.value)
    assert caught.value.usage


# The object


def test_parameters_come_back_from_json_and_are_frozen() -> None:
    params = load("corruption.colour=true", preset="demo")
    assert Params.model_validate(json.loads(json.dumps(params.model_dump(mode="json")))) == params
    with pytest.raises(ValidationError, match="frozen"):
        params.training.epochs = 3  # type: ignore[misc]


def test_a_section_checks_itself_too() -> None:
    with pytest.raises(ValidationError, match="the smaller number first"):
        Corruption.model_validate({**load().corruption.model_dump(), "size": (0.1, 0.05)})


def test_flat_names_every_value_once() -> None:
    flat = load().flat()
    assert flat["training.seed"] == 1
    assert flat["network.dropout"] == [0.0, 0.0, 0.1, 0.2, 0.3, 0.4]
    assert flat["corruption.structured.blobs"] == CONTENT["defaults"]["corruption"]["structured"]["blobs"]
    assert len(flat) == sum(_count(section) for section in CONTENT["defaults"].values())


def _count(node: object) -> int:
    return sum(map(_count, node.values())) if isinstance(node, dict) else 1
