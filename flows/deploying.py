"""What a Prefect server needs to run this project: work pools, a limit, deployments, automations."""

from __future__ import annotations

import asyncio
import os
import subprocess
from logging import getLogger
from typing import Any

from aesc.errors import AescError
from tasks.settings import Settings
from tasks.stack import executable

_SAID = 20  # lines of a failed `prefect deploy` that are worth reading


def deploy(settings: Settings) -> dict[str, Any]:
    """Make work pools, the limit on runs that change the data, deployments and automations; safe to repeat.

    Raises:
        AescError: no server is named, it does not answer, or Prefect refuses prefect.yaml.
    """
    from httpx import HTTPError
    from prefect import get_client
    from prefect.settings import PREFECT_API_URL

    from flows.one_at_a_time import AT_A_TIME, DATA_LIMIT, ensure_limit

    server = PREFECT_API_URL.value()
    if not server:
        raise AescError(
            "PREFECT_API_URL",
            "no Prefect server is named",
            allowed="an address like http://127.0.0.1:4200/api",
            todo='set it, or start the local stack: aesc up && eval "$(aesc env)"',
            usage=True,
        )
    try:
        make_work_pools(settings)
        ensure_limit(DATA_LIMIT)
        _deploy_all(settings)
        from flows.automations import create_automations

        automations = create_automations()
        with get_client(sync_client=True) as client:
            flows = {flow.id: flow.name for flow in client.read_flows()}
            deployments = client.read_deployments()
            pools = client.read_work_pools()
    except (HTTPError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
            raise
        raise AescError(
            server,
            f"the Prefect server does not answer: {error}",
            todo="start it, or correct PREFECT_API_URL",
            transient=True,
        ) from error
    return {
        "server": server,
        "work_pools": sorted(pool.name for pool in pools),
        "limits": {DATA_LIMIT: AT_A_TIME},
        "deployments": sorted(f"{flows[deployment.flow_id]}/{deployment.name}" for deployment in deployments),
        "automations": automations,
    }


def make_work_pools(settings: Settings) -> None:
    """Make the work pools that prefect.yaml names, where they are missing: a worker needs its own before it starts."""
    import prefect  # noqa: F401 - it starts its plugins when it is imported, which fails inside a running loop

    from flows.work_pools import create_work_pools

    asyncio.run(create_work_pools(settings.root / "prefect.yaml"))


def _deploy_all(settings: Settings) -> None:
    getLogger("aesc").info("deploying what prefect.yaml says ...")
    done = subprocess.run(
        [str(executable("prefect")), "--no-prompt", "deploy", "--all"],
        cwd=settings.root,
        env=os.environ | {"PATH": os.pathsep.join([str(executable("python").parent), os.environ.get("PATH", "")])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join(done.stdout.strip().splitlines()[-_SAID:])
        raise AescError(
            settings.root / "prefect.yaml",
            f"`prefect deploy --all` ended with {done.returncode}:\n{said}",
            todo="mend it, then run the same command again",
        )
