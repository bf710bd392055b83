"""The work pools that prefect.yaml names; aesc_prefect_plugin.py has them made before each `prefect deploy`."""

from __future__ import annotations

from pathlib import Path

TYPE = "process"


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
    """The work pools that a prefect.yaml names."""
    import yaml

    found = yaml.safe_load(deployments.read_text(encoding="utf-8"))["deployments"]
    return sorted({deployment["work_pool"]["name"] for deployment in found})
