"""Reading `params.yaml`: defaults, then a preset, then a category, then `--set`; every fault at once.

The file has `defaults`, `presets` (demo, quick, paper, ...) and `categories`; each later layer overrides single keys of
the earlier ones.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from aesc.errors import AescError
from aesc.params import Params

Layer = tuple[str, Mapping[str, Any]]
OVERRIDES = "--set"


def load_params(path: Path, *, preset: str, category: str | None = None, overrides: Sequence[str] = ()) -> Params:
    """Read, merge and check the parameters of one run.

    Args:
        path: the YAML file with `defaults`, `presets` and `categories`.
        preset: a name under `presets`.
        category: overrides under `categories.<category>` apply if they exist.
        overrides: `section.key=value` strings, the value in YAML.

    Raises:
        AescError: with every fault of the file and of the overrides at once.
    """
    raw = _read(path)
    faults: list[str] = [
        f"{key}: unknown key; allowed: defaults, presets, categories"
        for key in raw
        if key not in ("defaults", "presets", "categories")
    ]
    parts = {}
    for key in ("defaults", "presets", "categories"):
        part = raw.get(key) or {}
        if not isinstance(part, Mapping):
            raise AescError(path, f"{key} is {part!r}", allowed="a mapping of keys to values", usage=True)
        parts[key] = {str(name): value for name, value in part.items()}  # YAML reads a category 007 as a number
    presets = parts["presets"]
    if preset not in presets:
        raise AescError(
            f"--preset {preset}", f"no such preset in {path}", allowed=", ".join(sorted(presets)), usage=True
        )

    def layers(preset_name: str, category_name: str | None) -> list[Layer]:
        stack: list[Layer] = [("defaults", parts["defaults"]), (f"presets.{preset_name}", presets[preset_name] or {})]
        if category_name in parts["categories"]:
            stack.append((f"categories.{category_name}", parts["categories"][category_name] or {}))
        return stack

    asked, override_faults = _parse_overrides(overrides)
    for name in presets:
        faults += _check(layers(name, None), faults)[1]
    for name in parts["categories"]:
        faults += _check(layers(preset, name), faults)[1]
    params, own = _check([*layers(preset, category), (OVERRIDES, asked)], faults)
    faults += own + override_faults
    if faults or params is None:
        count = "1 error" if len(faults) == 1 else f"{len(faults)} errors"
        raise AescError(
            path, count + "".join(f"\n  {fault}" for fault in faults), todo="mend the keys named above", usage=True
        )
    return params


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AescError(
            path, "no such file", todo="run inside the project's folder, or name the file with --params", usage=True
        ) from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise AescError(path, f"not readable as YAML: {error}", todo="mend the file", usage=True) from None
    if not isinstance(raw, dict):
        raise AescError(path, f"holds {type(raw).__name__}", allowed="a mapping with defaults and presets", usage=True)
    return raw


def _parse_overrides(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    asked: dict[str, Any] = {}
    faults = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            faults.append(f"--set {text}: no value; allowed: section.key=value")
            continue
        node = asked
        *parents, last = key.strip().split(".")
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else node
        if not isinstance(node, dict):
            faults.append(f"--set {text}: {'.'.join(parents)} was set to {node!r} before; allowed: one of the two")
            continue
        try:
            node[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            faults.append(f"--set {text}: the value is not YAML")
    return asked, faults


def _check(layers: Sequence[Layer], known: Sequence[str]) -> tuple[Params | None, list[str]]:
    """Merge and validate; the faults that are not `known` yet, each naming the layer it came from."""
    merged: dict[str, Any] = {}
    faults: list[str] = []
    blamed: dict[tuple[str, str], str] = {}  # a contradiction is the fault of the first layer that completes it
    standing: list[tuple[str, str]] = []
    for name, layer in layers:
        try:
            _merge(merged, layer, name)
        except ValueError as error:
            faults.append(str(error))
        standing = list(_contradictions(merged))
        for contradiction in standing:
            blamed.setdefault(contradiction, name)
    faults += [f"{_named(blamed[section, fault], section)}: {fault}" for section, fault in standing]
    params = None
    try:
        params = Params.model_validate(merged)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["type"] != "value_error" or not isinstance(detail["input"], Mapping):
                faults.append(_describe(detail, layers))
    return params, [fault for fault in dict.fromkeys(faults) if fault not in known]


def _contradictions(merged: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Section ("" for faults between sections) and fault.

    Pydantic itself looks for contradictions only where every single value is sound, and would keep them for later.
    """
    models: dict[str, Any] = {}
    for name, field in Params.model_fields.items():
        section: Any = field.annotation
        values = merged.get(name)
        known = (
            {key: values[key] for key in section.model_fields if key in values} if isinstance(values, Mapping) else {}
        )
        models[name] = section.model_construct(**known)
    models[""] = Params.model_construct(**models)
    for name, model in models.items():
        with suppress(TypeError, ValueError, AttributeError):  # a value is missing or not even of the right type
            for fault in model.contradictions():
                yield name, fault


def _merge(into: dict[str, Any], layer: Mapping[str, Any], name: str) -> None:
    if not isinstance(layer, Mapping):
        raise ValueError(f"{name} = {layer!r}: allowed: a mapping of keys to values")
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value, name)
        else:
            into[key] = json.loads(json.dumps(value, default=str)) if isinstance(value, Mapping) else value


def _describe(detail: Mapping[str, Any], layers: Sequence[Layer]) -> str:
    keys = [str(part) for part in detail["loc"] if not isinstance(part, int)]
    source = next((name for name, layer in reversed(layers) if _has(layer, keys)), layers[0][0])
    key = _named(source, *keys)
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "missing" and isinstance(detail["loc"][-1], int):
        return f"{key} = {detail['input']!r}: too short"
    if detail["type"] == "missing":
        return f"{key}: missing; allowed: a value in defaults or in the preset"
    if detail["type"] == "extra_forbidden":
        allowed = _allowed_keys(keys[:-1])
        near = difflib.get_close_matches(keys[-1], allowed, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{key} = {detail['input']!r}: unknown key{hint}; allowed: {', '.join(allowed)}"
    if isinstance(detail["input"], Mapping):
        return f"{key}: {message}"
    if detail["type"] == "model_type":
        message = "allowed: a mapping of keys to values"
    if detail["type"] == "float_type" and _is_number(detail["input"]):
        message += " (this is text to YAML: no quotes, and a point before an exponent, as in 1.0e-3)"
    return f"{key} = {detail['input']!r}: {message}"


def _named(source: str, *keys: str) -> str:
    key = ".".join(key for key in keys if key)
    return f"{source}{' ' if source == OVERRIDES else '.'}{key}" if key else source


def _is_number(text: object) -> bool:
    try:
        return isinstance(text, str) and math.isfinite(float(text))
    except ValueError:
        return False


def _has(layer: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(layer, Mapping) or key not in layer:
            return False
        layer = layer[key]
    return True


def _allowed_keys(keys: Sequence[str]) -> list[str]:
    model: Any = Params
    for key in keys:
        model = model.model_fields[key].annotation
    return list(model.model_fields)
