"""Which device computes, in which precision, and how to make it repeat itself."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from aesc.errors import AescError


def resolve_device(wish: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        AescError: the wished device is not there.
    """
    if wish == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(wish)
    gpus = torch.cuda.device_count()
    present = {"cpu": True, "cuda": (device.index or 0) < gpus, "mps": torch.backends.mps.is_available()}
    if not present[device.type]:
        have = ["auto", "cpu", *(["mps"] if present["mps"] else []), *(f"cuda:{i}" for i in range(gpus))]
        raise AescError(
            "training.device",
            f"{wish} is not there: PyTorch {torch.__version__} sees {gpus} CUDA devices",
            allowed=", ".join(have),
            todo="install a PyTorch build for this GPU, or use --set training.device=auto",
        )
    return device


def gains_by_bfloat16(device: torch.device) -> bool:
    """True where bfloat16 products run on units of their own: CUDA from Ampere on, CPUs with AMX or AVX-512 BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        cpu = torch.cpu
        return any(getattr(cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return False


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The autocast context for `auto`, `float32` or `bfloat16`."""
    if _is_bfloat16(device, precision):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def _is_bfloat16(device: torch.device, precision: str) -> bool:
    return precision == "bfloat16" or (precision == "auto" and gains_by_bfloat16(device))


def multiply_in_float32() -> None:
    """Have this process's CUDA devices multiply float32 numbers as such.

    PyTorch would round them to TensorFloat-32, and a threshold that was calibrated on one device must hold on another.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Have PyTorch choose algorithms that give the same bits each time on the same kind of machine, while it lasts.

    No longer than training: on a GPU some functions, interpolation for one, then take another way and round otherwise,
    and an image must be judged alike by the process that trained and by those that serve.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    enabled = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, fill = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]  # missing in the stubs
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        torch.backends.cudnn.benchmark = benchmark
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def describe_device(device: torch.device, precision: str) -> dict[str, str | int]:
    """What a result's bits may depend on: device, its name, precision, threads, instruction set."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": str(device),
        "device_name": name,
        "precision": "bfloat16" if _is_bfloat16(device, precision) else "float32",
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
    }
