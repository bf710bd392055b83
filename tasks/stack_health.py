"""Whether a part of the local stack does its work: each is asked for what its clients will ask it for."""

from __future__ import annotations

import json
import urllib.request
from datetime import UTC, datetime
from typing import Any

from tasks.stack import BUCKETS, MLFLOW, PREFECT, S3, Stack

_PATIENCE = 5  # seconds for one answer
# A proxy of the environment is for the outside; these servers are on this machine.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def problem(stack: Stack, name: str, *, since: float) -> str:
    """What is wrong with a part whose process runs; empty if it does its work.

    Args:
        stack: which stack.
        name: which of its parts.
        since: when its process started, in seconds since 1970. What Prefect knows of an earlier worker of that name
            does not count.
    """
    try:
        match name:
            case _ if name == S3:
                return _s3_problem(stack)
            case _ if name == MLFLOW:
                _get(f"{stack.addresses[MLFLOW]}/health")
            case _ if name == PREFECT:
                _get(f"{stack.addresses[PREFECT]}/api/health")
            case _:
                return _worker_problem(stack, name, since)
    except (OSError, ValueError) as error:
        return f"does not answer: {error}"
    return ""


def _s3_problem(stack: Stack) -> str:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    env = stack.client_environment()
    try:
        client = boto3.client(
            "s3",
            endpoint_url=env["AWS_ENDPOINT_URL"],
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
            region_name=env["AWS_DEFAULT_REGION"],
            config=Config(
                connect_timeout=_PATIENCE, read_timeout=_PATIENCE, retries={"total_max_attempts": 1}, proxies={}
            ),
        )
        buckets = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    except (BotoCoreError, ClientError) as error:
        return f"does not answer: {error}"
    missing = sorted(set(BUCKETS) - buckets)
    return f"has no bucket {', '.join(missing)}" if missing else ""


def _worker_problem(stack: Stack, name: str, since: float) -> str:
    pool = stack.workers[name]
    body = json.dumps({"workers": {"status": {"any_": ["ONLINE"]}}}).encode()
    found = _get(f"{stack.addresses[PREFECT]}/api/work_pools/{pool}/workers/filter", body)
    started = datetime.fromtimestamp(int(since), UTC)
    for worker in found:
        if worker["name"] == name and datetime.fromisoformat(worker["last_heartbeat_time"]) >= started:
            return ""
    return f"is not online in the work pool {pool}"


def _get(url: str, body: bytes | None = None) -> Any:
    """The answer, if it is JSON."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})  # noqa: S310
    with _open(request, timeout=_PATIENCE) as response:
        text = response.read().decode()
    return json.loads(text) if text.startswith(("[", "{")) else text
