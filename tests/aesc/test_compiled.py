"""Functions that are compiled: what they are, and what is kept of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

import aesc
from aesc.compiled import compiled


def modules() -> list[ModuleType]:
    names = [info.name for info in pkgutil.iter_modules(aesc.__path__)]
    found = [importlib.import_module(f"aesc.{name}") for name in names]
    return [module for module in found if kernels(module)]


def kernels(module: ModuleType) -> list[Dispatcher]:
    return [
        value
        for value in vars(module).values()
        if isinstance(value, Dispatcher) and value.__module__ == module.__name__
    ]


def test_there_are_some() -> None:
    assert {module.__name__ for module in modules()} >= {"aesc.blob_loops", "aesc.counting", "aesc.stain_loops"}


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_none_reads_what_another_module_defines(module: ModuleType) -> None:
    """It is kept on disk for as long as its own file stays the same."""
    for kernel in kernels(module):
        for name in kernel.py_func.__code__.co_names:
            value = vars(module).get(name)
            if value is None or isinstance(value, ModuleType):  # an attribute, a builtin; numpy, math
                continue
            assert value in kernels(module) or name in own_constants(module), f"{kernel.__name__} reads {name}"


def own_constants(module: ModuleType) -> set[str]:
    """Names that the module's own lines give a value."""
    assert module.__file__ is not None
    lines = Path(module.__file__).read_text(encoding="utf-8").splitlines()
    return {line.split(" = ")[0] for line in lines if " = " in line and not line.startswith((" ", "#"))}


def test_what_cannot_be_kept_is_compiled_all_the_same() -> None:
    defined: dict[str, Callable[[NDArray[np.float64]], float]] = {}
    exec("def twice(values): return 2 * values.sum()", defined)  # noqa: S102  # without a file there is no place to keep it
    twice = compiled(defined["twice"])
    assert isinstance(twice, Dispatcher)
    assert twice(np.arange(4.0)) == 12.0
    assert len(twice.signatures) == 1
