"""A shard as a task of Prefect's; apart from the work itself, which a small inspection does without Prefect."""

from __future__ import annotations

from prefect import task

from tasks.inspection_folder import InspectionFolder
from tasks.inspection_shard import run_shard


@task(task_run_name="inspect shard {number}")
def inspect_shard(folder: str, number: int) -> str:
    """Do one shard with one thread, as every worker does: the sums then have the same order everywhere.

    Returns:
        The file of its rows.
    """
    import torch

    # Of this thread. Several shards run side by side, so more threads would only wait for each other.
    torch.set_num_threads(1)
    return str(run_shard(InspectionFolder(folder), number))
