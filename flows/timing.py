"""How long each stage of a flow takes, said as it goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("aesc")


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Log the stage `name` and put its seconds into `seconds`."""
    LOGGER.info("%s ...", name)
    began = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - began, 2)
    LOGGER.info("%s: %.1f s", name, seconds[name])
