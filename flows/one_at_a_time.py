"""One run at a time, on whatever machine it is: a global concurrency limit of the Prefect server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL

DATA_LIMIT = "aesc-data"  # one project has one data folder, one data.dvc and one git index
AT_A_TIME = 1
LEASE_SECONDS = 60.0  # after which the slot of a killed run is free again


@contextmanager
def one_at_a_time(limit: str) -> Iterator[None]:
    """Wait for the runs of other machines that hold `limit`; without a server of the user's there are none."""
    if not PREFECT_API_URL.value():
        yield
        return
    ensure_limit(limit)
    # If the server forgets the lease, the run goes on: a lock file still keeps this machine's other runs off.
    with concurrency(limit, occupy=AT_A_TIME, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False):
        yield


def ensure_limit(name: str) -> None:
    """Make the limit unless the server has it."""
    with get_client(sync_client=True) as client:
        try:
            client.upsert_global_concurrency_limit_by_name(name, AT_A_TIME)
        except ObjectAlreadyExists:  # another run made it at the same moment: Prefect looks first, and then makes it
            client.upsert_global_concurrency_limit_by_name(name, AT_A_TIME)
