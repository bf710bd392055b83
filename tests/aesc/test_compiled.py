"""Functions that are compiled: what they are, what is kept of them, and that no index of theirs is out of bounds."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numba import types
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

import aesc
from aesc.compiled import compiled
from aesc.corruption import corrupt
from aesc.params import Corruption
from aesc.params_file import load_params
from aesc.pixel_metrics import pixel_metrics

ROOT = Path(__file__).parents[2]


def modules() -> list[ModuleType]:
    names = [info.name for info in pkgutil.iter_modules(aesc.__path__)]
    found = [importlib.import_module(f"aesc.{name}") for name in names]
    return [module for module in found if kernels(module)]


def kernels(module: ModuleType) -> list[Dispatcher]:
    found = [value for value in vars(module).values() if isinstance(value, Dispatcher)]
    return [kernel for kernel in found if kernel.__module__ == module.__name__]


def own_constants(module: ModuleType) -> set[str]:
    """Names that the module gives a value which hangs on nothing of another of our modules."""
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and str(node.module).startswith("aesc")]
    foreign = {alias.asname or alias.name for node in imports for alias in node.names}
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Assign):
            read = {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
            names = {part.id for target in node.targets for part in ast.walk(target) if isinstance(part, ast.Name)}
            foreign, found = (foreign | names, found) if read & foreign else (foreign, found | names)
    return found


def paint_and_count() -> None:
    """Everything that is compiled, with what it may be given."""
    for preset in ("paper", "ablation", "best"):
        drawn = load_params(ROOT / "params.yaml", preset=preset).corruption
        blob = {**drawn.structured.model_dump(), "size": (0.02, 0.9), "bend": 1.0}
        wide = Corruption.model_validate({**drawn.model_dump(), "size": (0.001, 0.27), "structured": blob})
        for params in (drawn, wide, Corruption.model_validate({**wide.model_dump(), "colour": True, "blur": 1e-17})):
            for batch, channels, side in ((4, 3, 64), (1, 1, 64), (5, 1, 128), (1, 3, 128)):
                images = torch.rand(batch, channels, side, side)
                large = torch.rand(batch, channels, side, 2 * side)
                for laid in (images, images.contiguous(memory_format=torch.channels_last), images.mT, large[..., ::2]):
                    corrupt(laid, params=params, generator=torch.Generator().manual_seed(batch))
    rng = np.random.default_rng(1)
    for dtype in (np.float32, np.float64):
        for maps in (rng.normal(size=(4, 32, 32)), rng.integers(0, 3, (2, 32, 32)), np.zeros((2, 8, 8))):
            masks = np.zeros(maps.shape, bool)
            masks[0, :3, :3] = True
            pixel_metrics(maps.astype(dtype), masks)
            pixel_metrics(maps.astype(dtype).transpose(0, 2, 1), masks)


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


def test_each_is_called_with_one_kind_of_array_and_with_classes_of_its_own_module() -> None:
    paint_and_count()
    for module in modules():
        called = [kernel for kernel in kernels(module) if kernel.signatures]  # others are called by these alone
        assert called
        for kernel in called:
            (kinds,) = kernel.signatures
            for kind in kinds:
                if isinstance(kind, types.BaseNamedTuple):
                    assert kind.instance_class.__module__ == module.__name__
                assert not isinstance(kind, types.Array) or kind.layout == "C"


def test_no_index_is_out_of_bounds(tmp_path: Path) -> None:
    program = "from tests.aesc.test_compiled import paint_and_count; paint_and_count()"
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_kept_is_compiled_all_the_same() -> None:
    defined: dict[str, Callable[[NDArray[np.float64]], float]] = {}
    exec("def twice(values): return 2 * values.sum()", defined)  # noqa: S102  # it has no file to be kept beside
    twice = compiled(defined["twice"])
    assert isinstance(twice, Dispatcher)
    assert twice(np.arange(4.0)) == 12.0
    assert len(twice.signatures) == 1
