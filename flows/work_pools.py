"""Work pools: the ones that prefect.yaml names come into being when it is deployed.

`prefect deploy` refuses a work pool that does not exist before it runs a single build step, so on a fresh server no
step of prefect.yaml could make one. This module is a plugin of Prefect's (entry point `prefect.plugins`, switched on by
`[tool.prefect.plugins]` in pyproject.toml, thus in the project's folder only): before `prefect deploy` it makes what is
missing. Other commands pass it by: it is imported with Prefect, so it imports little itself.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.plugins import register_hook

if TYPE_CHECKING:
    from prefect.plugins import HookContext

DEPLOYMENTS = "prefect.yaml"
TYPE = "process"


@register_hook
async def setup_environment(*, ctx: HookContext) -> None:
    """Prefect's start-up hook: before `prefect deploy`, make the work pools that are missing."""
    if ctx.api_url and _is_deploying(sys.argv) and Path(DEPLOYMENTS).is_file():
        for name in await create_work_pools(Path(DEPLOYMENTS)):
            print(f"made work pool {name} of type {TYPE}", file=sys.stderr)


async def create_work_pools(deployments: Path) -> list[str]:
    """Make the work pools that a prefect.yaml names and the server lacks, for processes; their names.

    A pool that is there stays as it is, of whatever type: on a cluster it is one for Docker or Kubernetes.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.process import ProcessWorker

    made = []
    async with get_client() as client:
        for name in pool_names(deployments):
            try:
                await client.read_work_pool(name)
            except ObjectNotFound:
                template = ProcessWorker.get_default_base_job_template()
                try:
                    await client.create_work_pool(WorkPoolCreate(name=name, type=TYPE, base_job_template=template))
                except ObjectAlreadyExists:  # another deployment was faster
                    continue
                made.append(name)
    return made


def pool_names(deployments: Path) -> list[str]:
    """The work pools that a prefect.yaml sends its deployments to."""
    import yaml

    found = yaml.safe_load(deployments.read_text(encoding="utf-8"))["deployments"]
    return sorted({deployment["work_pool"]["name"] for deployment in found})


def _is_deploying(argv: list[str]) -> bool:
    """Whether this is `prefect [--option ...] deploy ...`."""
    words = [word for word in argv[1:] if not word.startswith("-")]
    return Path(argv[0]).stem == "prefect" and words[:1] == ["deploy"]
