"""Ports of 127.0.0.1 that nothing listens on."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Container
from contextlib import suppress

from aesc.errors import AescError

HOST = "127.0.0.1"
# A server of SeaweedFS has a second port so far above its first, and its other servers look for it there.
TWIN = 10000
# Both are below the ports that Linux gives to outgoing connections, so that they stay free while nobody uses them.
_FIRST, _LAST = 20000, 32767 - TWIN


def is_free(port: int) -> bool:
    """Whether a server can listen there, and on the port's twin, now."""
    return _can_listen(port) and _can_listen(port + TWIN)


def free_ports(count: int, *, taken: Container[int] = ()) -> list[int]:
    """`count` ports that nothing listens on now, none of them in `taken`; drawn at random, so that two who look at once
    rarely find the same.

    Raises:
        AescError: there are not enough.
    """
    found: list[int] = []
    for port in secrets.SystemRandom().sample(range(_FIRST, _LAST + 1), _LAST + 1 - _FIRST):
        if len(found) == count:
            break
        if port not in taken and is_free(port):
            found.append(port)
    if len(found) < count:
        raise AescError(HOST, f"only {len(found)} of {count} ports are free", allowed=f"ports {_FIRST} to {_LAST}")
    return found


def _can_listen(port: int) -> bool:
    with socket.socket() as one:
        # Connections of a server that has just stopped linger for a minute; servers listen in spite of them.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            one.bind((HOST, port))
            one.listen()
            return True
    return False
