"""Imports run one way, flows -> tasks -> aesc, and the method knows no orchestrator, tracker or cloud."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "aesc": {
        *("prefect", "mlflow", "dvc", "dvc_s3", "great_expectations", "boto3", "botocore", "aiobotocore", "s3fs"),
        *("tasks", "flows"),
    },
    "tasks": {"flows"},
    "flows": set[str](),
}
# What the method may stand on. Adding to it is a decision, not an accident.
ALLOWED_IN_AESC = {
    *("torch", "numpy", "pandas", "scipy", "sklearn", "PIL", "matplotlib"),
    *("pydantic", "yaml", "safetensors", "pyarrow", "tqdm", "filelock"),
    *("onnx", "onnxscript", "onnxruntime"),  # an optional extra: the network as a file that needs none of this
    "numba",  # loops over pixels and scores, where array operations would go through memory once for each step
    "imagehash",  # perceptual hashes: whether an arrival is a copy is part of guarding what is clean
}
MODULES = [
    pytest.param(package, path, id=str(path.relative_to(ROOT)))
    for package in FORBIDDEN
    for path in sorted((ROOT / package).rglob("*.py"))
]


def imported(tree: ast.AST, *, package: str) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import, also inside functions, under TYPE_CHECKING, relative or by name."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield node.lineno, alias.name.split(".")[0]
            case ast.ImportFrom(module=module, level=level):
                yield node.lineno, package if level else str(module).split(".")[0]
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(text)), *_]):
                if name in ("import_module", "__import__", "find_spec"):
                    yield node.lineno, text.split(".")[0]


def faults(source: str, *, package: str) -> list[str]:
    found = []
    for line, name in imported(ast.parse(source), package=package):
        if name in FORBIDDEN[package]:
            found.append(f"line {line}: {package} must not import {name}")
        elif package == "aesc" and name not in {*sys.stdlib_module_names, *ALLOWED_IN_AESC, "aesc"}:
            found.append(f"line {line}: {name} is not among what aesc may stand on")
    return found


def test_all_three_packages_are_looked_at() -> None:
    assert {param.values[0] for param in MODULES} == {"aesc", "tasks", "flows"}
    assert sum(param.values[0] == "aesc" for param in MODULES) > 10


@pytest.mark.parametrize(("package", "path"), MODULES)
def test_imports_run_one_way(package: str, path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8"), package=package) == []


@pytest.mark.parametrize(
    "source",
    [
        "import mlflow",
        "import numpy, boto3.session as s3",
        "from prefect.artifacts import create_progress_artifact",
        "from tasks.settings import Settings",
        "def f():\n    import great_expectations as gx",
        "if TYPE_CHECKING:\n    from flows.retrain import retrain",
        "try:\n    import dvc.api\nexcept ImportError:\n    pass",
        "importlib.import_module('botocore.config')",
        "__import__('mlflow')",
        "import requests",
    ],
)
def test_the_rule_can_fail(source: str) -> None:
    assert len(faults(source, package="aesc")) == 1


@pytest.mark.parametrize(
    "source", ["import torch", "from . import params", "from aesc.errors import AescError\nimport os.path"]
)
def test_the_rule_lets_the_method_pass(source: str) -> None:
    assert faults(source, package="aesc") == []


def test_tasks_must_not_import_flows() -> None:
    assert faults("from flows import cli", package="tasks")
    assert faults("from aesc import params\nimport mlflow", package="tasks") == []
