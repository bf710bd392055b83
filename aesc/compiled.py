"""Loops that Numba compiles for the processor they run on.

For work that is many small decisions a pixel, where NumPy and PyTorch would go through memory once for each of them.
What is compiled follows the source to the letter: sums are not reordered and products are not joined with sums, so a
function gives the same bits wherever its arguments are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def compiled(function: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """`function`, compiled when it is first called and kept for later processes where its folder, or the user's cache
    folder, can be written to; other threads run while it does.

    It takes arrays and numbers, calls nothing but what is compiled too, and checks no index. What is kept goes with its
    file: it would not know that a constant of another module has changed, so it reads none.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available": neither folder can be written to
        return numba.njit(nogil=True)(function)
