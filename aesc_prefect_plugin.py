"""What runs when Prefect starts: before `prefect deploy` work pools that are missing are made, and a server looks for
garbage seldom and in a thread of its own.

`prefect deploy` refuses a work pool that does not exist before it runs a single build step, so on a fresh server no
step of prefect.yaml could make one.

A server imports thousands of modules, through whose objects Python looks in vain: it is ready two seconds sooner. And
on SQLite garbage may hold cursors. To let go of one, SQLite waits for the connection it was made with, which may itself
wait for another one to commit. Found by the thread that has to order that commit, the server's event loop, such a
cursor stops the server for the 60 s that Prefect has SQLite wait for a lock; another thread can wait for it in peace.

This is a plugin of Prefect's (entry point `prefect.plugins` in pyproject.toml), switched on by
`[tool.prefect.plugins]` there, thus in the project's folder only. Other commands pass it by.

It stands outside the packages and imports none of them before it must: whatever Prefect is imported for would otherwise
have `flows` from where this was installed, and not from the clone that it works in.
"""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.plugins import register_hook

if TYPE_CHECKING:
    from prefect.plugins import HookContext

DEPLOYMENTS = Path("prefect.yaml")
SERVER = "prefect.server.api.server:create_app"  # what uvicorn is told to serve, embedded or in the background
COLLECT_AFTER = 50_000  # objects, as in flows/cli.py; Python's own threshold is 700
LOOK_EVERY = 1.0  # seconds


@register_hook
async def setup_environment(*, ctx: HookContext) -> None:
    """Prefect's start-up hook."""
    if SERVER in sys.argv or _is(sys.argv, "server", "start"):
        collect_garbage_beside()
    if not (ctx.api_url and _is(sys.argv, "deploy") and DEPLOYMENTS.is_file()):
        return
    sys.path.insert(0, str(Path.cwd()))

    from flows.work_pools import TYPE, create_work_pools

    for name in await create_work_pools(DEPLOYMENTS):
        print(f"made work pool {name} of type {TYPE}", file=sys.stderr)


def collect_garbage_beside() -> None:
    """Let no thread of this process look for garbage but one that does nothing else."""
    gc.disable()
    threading.Thread(target=_collect_for_ever, name="garbage", daemon=True).start()


def _collect_for_ever() -> None:
    for number in itertools.count(1):
        while gc.get_count()[0] < COLLECT_AFTER:
            time.sleep(LOOK_EVERY)
        # As Python does: what outlived ten collections is looked at in every tenth, and so once more.
        gc.collect(2 if number % 100 == 0 else 1 if number % 10 == 0 else 0)


def _is(argv: list[str], *command: str) -> bool:
    """Whether this is `prefect [--option ...] COMMAND ...`."""
    words = [word for word in argv[1:] if not word.startswith("-")]
    return Path(argv[0]).stem == "prefect" and words[: len(command)] == list(command)
