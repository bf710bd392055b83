"""The job templates for clusters, by the rules of the work-pool types they are for."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from docker.types import HostConfig
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.workers.base import BaseJobConfiguration
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

from tests.repositories import ROOT

WORKERS = {"docker": DockerWorker, "kubernetes": KubernetesWorker}
PLACEHOLDER = re.compile(r"{{\s*([\w.]+)\s*}}")
OURS = {
    "docker": {"gpus", "shm_size"},
    "kubernetes": {"gpus", "secret_name", "volumes", "volume_mounts", "node_selector", "tolerations"},
}


def template(kind: str) -> dict[str, Any]:
    text = (ROOT / "deploy" / f"{kind}-base-job-template.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def texts(value: Any) -> Iterator[str]:
    match value:
        case dict():
            for key, inner in value.items():
                yield from texts(key)
                yield from texts(inner)
        case list():
            for inner in value:
                yield from texts(inner)
        case str():
            yield value


def configuration(kind: str, **values: Any) -> Any:
    """What a worker of this type makes of the template and a deployment's job variables."""
    types: dict[str, type[BaseJobConfiguration]] = {
        "docker": DockerWorkerJobConfiguration,
        "kubernetes": KubernetesWorkerJobConfiguration,
    }
    nobody = PrefectClient("http://127.0.0.1:9/api")  # there are no blocks to ask a server for
    asked = {"command": "true", "name": "x", **values}
    return asyncio.run(types[kind].from_template_and_values(template(kind), asked, client=nobody))


def started(kind: str, **values: Any) -> Any:
    """The configuration as the worker hands it to Docker or Kubernetes for a flow run."""
    made = configuration(kind, **values)
    made.prepare_for_flow_run(FlowRun(flow_id=uuid4(), name="x"))
    return made


@pytest.mark.parametrize("kind", WORKERS)
def test_a_placeholder_has_its_variable_and_a_variable_its_place(kind: str) -> None:
    ours = template(kind)
    used = {name for text in texts(ours["job_configuration"]) for name in PLACEHOLDER.findall(text)}
    assert used == set(ours["variables"]["properties"])
    assert {"image", "gpus", "volumes", "env"} <= used
    for name, variable in ours["variables"]["properties"].items():
        assert variable["description"].strip(), name


@pytest.mark.parametrize("kind", WORKERS)
def test_only_what_the_worker_has_is_configured(kind: str) -> None:
    ours, theirs = template(kind), WORKERS[kind].get_default_base_job_template()
    assert set(ours["job_configuration"]) == set(theirs["job_configuration"])
    of_the_worker = set(theirs["variables"]["properties"])
    # Two give way: the template itself says what Docker is told beside the rest.
    assert of_the_worker - set(ours["variables"]["properties"]) <= {"container_create_kwargs"}
    assert set(ours["variables"]["properties"]) - of_the_worker == OURS[kind]
    for name in of_the_worker & set(ours["variables"]["properties"]) - {"image"}:
        same = ("type", "anyOf", "items", "enum", "additionalProperties")
        for key in same:
            assert ours["variables"]["properties"][name].get(key) == theirs["variables"]["properties"][name].get(key)


@pytest.mark.parametrize("kind", WORKERS)
def test_prefect_takes_the_template_and_its_defaults(kind: str) -> None:
    from prefect.utilities.schema_tools import is_valid_schema, validate

    variables = template(kind)["variables"]
    is_valid_schema(variables, preprocess=False)
    validate({}, variables, raise_on_error=True, preprocess=False)
    defaults = {name: one["default"] for name, one in variables["properties"].items() if "default" in one}
    validate(defaults, variables, raise_on_error=True, preprocess=False)


def test_a_docker_run_gets_its_gpus_image_and_volume() -> None:
    made = started("docker", image="registry/aesc:1", gpus=2, env={"MLFLOW_TRACKING_URI": "http://mlflow"})
    assert made.image == "registry/aesc:1"
    assert made.volumes == ["aesc-state:/state"]
    assert made.env.items() >= {"AESC_HOME": "/state", "MLFLOW_TRACKING_URI": "http://mlflow"}.items()
    host = HostConfig(version="1.44", **made.container_create_kwargs)  # as docker-py sends it to the engine
    (request,) = host["DeviceRequests"]
    assert (request["Driver"], request["Count"], request["Capabilities"]) == ("nvidia", 2, [["gpu"]])
    assert host["ShmSize"] == 2 * 2**30


def test_a_kubernetes_run_gets_its_gpus_image_and_volume() -> None:
    made = started("kubernetes", image="registry/aesc:1", gpus=2, env={"MLFLOW_TRACKING_URI": "http://mlflow"})
    pod = made.job_manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry/aesc:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert {"name": "state", "mountPath": "/state"} in container["volumeMounts"]
    assert container["envFrom"] == [{"secretRef": {"name": "aesc", "optional": True}}]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert env.items() >= {"AESC_HOME": "/state", "MLFLOW_TRACKING_URI": "http://mlflow"}.items()
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "nodeSelector" not in pod
    assert pod["securityContext"]["runAsNonRoot"]


def test_no_gpu_is_a_number_too() -> None:
    pod = configuration("kubernetes", gpus=0).job_manifest["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 0


def test_the_manifest_is_one_that_kubernetes_knows() -> None:
    """Read into the client's own models, whose deserializer knows each field's type."""
    from kubernetes_asyncio.client import ApiClient, V1Job

    made = started("kubernetes", node_selector={"gpu": "h100"}, memory_limit="8Gi")
    manifest = made.job_manifest

    async def read() -> Any:
        async with ApiClient() as client:
            job = client._ApiClient__deserialize(manifest, "V1Job")
            return job, client.sanitize_for_serialization(job)

    job, again = asyncio.run(read())
    assert isinstance(job, V1Job)
    limits = manifest["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    limits["nvidia.com/gpu"] = str(limits["nvidia.com/gpu"])  # a quantity is either
    assert again == manifest  # no field was unknown and dropped
