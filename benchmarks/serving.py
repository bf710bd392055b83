"""A registered 256 x 256 model behind `mlflow models serve`: seconds, lost requests, memory, answers to bad images.

`python benchmarks/serving.py [REQUESTS]` prints one JSON line. Not among `make bench`: it takes minutes. The network is
untrained, which changes no time.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.untrained import striped_image, untrained_detector
from tests.servers import Server, model_server

CLIENTS = 8
WARM_UP = 50


class Client:
    """One connection to a scoring server."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)

    def ask(self, content: bytes, **params: Any) -> tuple[int, dict[str, Any]]:
        """Status and answer to one image file's content."""
        record = {"image": base64.b64encode(content).decode("ascii")}
        return self.post({"dataframe_records": [record], "params": params})

    def post(self, payload: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and answer to any payload."""
        body = json.dumps(payload)
        self._connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def bad_images() -> dict[str, bytes]:
    whole = png(striped_image(256, 1))
    large = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(large, format="PNG")
    return {"not an image": b"%PDF-1.7 no image", "truncated": whole[: len(whole) // 2], "too large": large.getvalue()}


@contextmanager
def served(folder: Path, *overrides: str, side: int = 256) -> Iterator[Server]:
    """An untrained detector, logged to MLflow in `folder`, registered and served."""
    import mlflow

    from tasks.registry import log_detector

    folder.mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ["MLFLOW_TRACKING_URI"] = uri  # where the project looks, too
    untrained_detector(folder, *overrides, side=side)
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("aesc-stripes", artifact_location=(folder / "artifacts").as_uri())
    run_id = client.create_run(experiment).info.run_id
    logged = log_detector(folder / "detector", run_id)
    client.create_registered_model("aesc-stripes")
    version = client.create_model_version("aesc-stripes", logged.model_uri, run_id, model_id=logged.model_id).version
    with model_server(folder, f"models:/aesc-stripes/{version}", env={"MLFLOW_TRACKING_URI": uri}) as server:
        yield server


def seconds(client: Client, content: bytes, *, rounds: int, **params: Any) -> list[float]:
    """Each request's time, one after the other."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        status, answer = client.ask(content, **params)
        found.append(time.perf_counter() - began)
        assert status == 200, answer
    return found


def far_from_the_threshold(client: Client) -> bytes:
    """An image whose verdict needs no stochastic pass: by far the most common case."""
    for number in range(100, 200):
        content = png(striped_image(256, number))
        _, answer = client.ask(content, strategy="residual")
        if answer["predictions"][0]["uncertainty"] is None:
            return content
    raise AssertionError("every image is near the threshold")


def memory(pid: int) -> float:
    """Resident megabytes of a process and all its children."""
    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(process.memory_info().rss for process in tree) / 1e6


def storm(server: Server, contents: list[bytes], *, requests: int) -> dict[str, Any]:
    """`requests` from CLIENTS threads at once: answers by status, wrong scores, requests a second."""
    own = threading.local()
    expected = [Client(server.url).ask(content)[1]["predictions"][0]["score"] for content in contents]

    def ask(number: int) -> tuple[int, bool]:
        if not hasattr(own, "client"):
            own.client = Client(server.url)
        which = number % len(contents)
        status, answer = own.client.ask(contents[which])
        return status, status == 200 and abs(answer["predictions"][0]["score"] / expected[which] - 1.0) < 1e-6

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, range(requests)))
    took = time.perf_counter() - began
    return {
        "requests": requests,
        "clients": CLIENTS,
        "lost": sum(status != 200 for status, _ in answers),
        "wrong": sum(not right for _, right in answers),
        "requests_per_second": round(requests / took, 1),
    }


def measure(server: Server, *, requests: int, rounds: int = 40) -> dict[str, Any]:
    """All figures of a served model."""
    client = Client(server.url)
    usual = far_from_the_threshold(client)
    seconds(client, usual, rounds=5, all_scores=True)
    residual = seconds(client, usual, rounds=rounds, strategy="residual")
    passes = seconds(client, usual, rounds=rounds // 2, all_scores=True)
    contents = [png(striped_image(256, number)) for number in range(200, 208)]
    storm(server, contents, requests=WARM_UP)
    before = memory(server.pid)
    found = storm(server, contents, requests=requests)
    return {
        "residual_p50_ms": round(1000 * statistics.median(residual), 1),
        "residual_p95_ms": round(1000 * float(np.quantile(residual, 0.95)), 1),
        "all_passes_p50_ms": round(1000 * statistics.median(passes), 1),
        "all_passes_p95_ms": round(1000 * float(np.quantile(passes, 0.95)), 1),
        **found,
        "memory_after_warm_up_mb": round(before, 1),
        "memory_at_the_end_mb": round(memory(server.pid), 1),
        "bad_images": {name: list(Client(server.url).ask(content)) for name, content in bad_images().items()},
    }


def main() -> None:
    """Measure and print one JSON line."""
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as scratch, served(Path(scratch) / "served") as server:
        line = measure(server, requests=requests)
    machine = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    print(json.dumps({"name": "serving", **line, **machine, "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
