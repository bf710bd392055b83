"""Loops that Numba compiles for the processor they run on.

For work that is many small decisions a pixel, where NumPy and PyTorch would go through memory once for each of them.
What is compiled follows the source to the letter: sums are not reordered, and products are not joined with sums.
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

    It takes arrays and numbers, calls nothing but what is compiled too, divides by 0 as NumPy does, and checks no index
    (NUMBA_BOUNDSCHECK=1 does). What is kept goes with its file: it would not know that a constant or a class of another
    module has changed, so it has to do with none. Numba does not lock what it keeps, and two processes that compile a
    function for different types at once can mistake one for the other, so each is called with one kind of array only:
    one type, contiguous.
    """
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # "no locator available": neither folder can be written to
        return numba.njit(nogil=True, error_model="numpy")(function)
