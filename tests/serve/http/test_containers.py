"""The files that serve a bundle in containers, read: there is no Docker here, nor a cluster."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertline.benchmarks.serve.serving import serving
from bertline.launch.command import main
from bertline.serve.http import server
from bertline.serve.http.keys import ENVIRONMENT

CLUSTER = Path(__file__).parents[3] / "launch" / "cluster"
OBJECTS: dict[str, Any] = {one["kind"]: one for one in yaml.safe_load_all((CLUSTER / "serve.yaml").read_text())}
POD: dict[str, Any] = OBJECTS["Deployment"]["spec"]["template"]["spec"]
KSERVE: dict[str, Any] = yaml.safe_load((CLUSTER / "kserve.yaml").read_text())
PREDICTOR: dict[str, Any] = KSERVE["spec"]["predictor"]
TRACES_SECONDS = 10
"""In which OpenTelemetry's exporter gives up by default."""


def instructions(name: str) -> list[tuple[str, str]]:
    lines = [line for line in (CLUSTER / name).read_text().splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_is_built_as_the_one_that_trains() -> None:
    """Whose copies are tested to be all that runs."""
    copies = [[words for name, words in instructions(file) if name == "COPY"] for file in
              ("serve.Dockerfile", "train.Dockerfile")]  # fmt: skip
    assert copies[0] == copies[1]


def test_the_image_serves_as_no_root_and_says_when_it_is_well(sealed: Path) -> None:
    told = dict(instructions("serve.Dockerfile"))
    assert told["USER"] == "1000"
    assert any("[serve,openvino,tracing,sign]" in words for _, words in instructions("serve.Dockerfile"))
    entry = json.loads(told["ENTRYPOINT"])
    assert entry[:2] == ["bertline", "serve"]
    assert entry[2:] == ["--host", "0.0.0.0"]
    health = json.loads(told["HEALTHCHECK"].partition("CMD ")[2])
    assert told["EXPOSE"] in health[2]
    with serving(sealed) as running:
        port = running.url.rpartition(":")[2]
        check = [sys.executable, *health[1:2], health[2].replace(told["EXPOSE"], port)]
        assert subprocess.run(check, check=False, timeout=10).returncode == 0
        running.end()
        assert subprocess.run(check, check=False, timeout=10, stderr=subprocess.DEVNULL).returncode != 0


@pytest.mark.parametrize("container", [POD["containers"][0], PREDICTOR["containers"][0]], ids=["kubernetes", "kserve"])
def test_probes_ask_for_what_the_server_answers(container: dict[str, Any], sealed: Path) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    default = next(option.default for option in main.commands["serve"].params if option.name == "port")
    with serving(sealed) as running:
        for probe in ("readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            assert ports.get(asked["port"], asked["port"]) == default
            with urllib.request.urlopen(running.url + asked["path"], timeout=10) as answer:
                assert answer.status == 200


@pytest.mark.parametrize("container", [POD["containers"][0], PREDICTOR["containers"][0]], ids=["kubernetes", "kserve"])
def test_a_container_may_do_little_and_has_whole_cores(container: dict[str, Any]) -> None:
    may = container["securityContext"]
    assert (may["allowPrivilegeEscalation"], may["readOnlyRootFilesystem"]) == (False, True)
    assert may["capabilities"] == {"drop": ["ALL"]}
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"]["cpu"].isdigit()


def test_the_autoscaler_counts_the_cores_that_the_server_computes_on() -> None:
    """Its target is a share of the CPUs that a pod requests."""
    given = main.commands["serve"].make_context("serve", [*POD["containers"][0]["args"]], resilient_parsing=True).params
    assert given["threads"] == int(POD["containers"][0]["resources"]["requests"]["cpu"])


def test_there_is_time_to_end() -> None:
    pause = int(POD["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert POD["terminationGracePeriodSeconds"] > pause + server.GRACE_SECONDS + TRACES_SECONDS
    (seconds,) = re.findall(r"--stop-timeout (\d+)", (CLUSTER / "serve.Dockerfile").read_text())
    assert int(seconds) >= server.GRACE_SECONDS + TRACES_SECONDS
    assert POD["securityContext"]["runAsNonRoot"] is True
    told = " ".join((CLUSTER / "kserve.yaml").read_text().replace("#", "").split())  # Knative allows none of it
    assert f"add terminationGracePeriodSeconds: {POD['terminationGracePeriodSeconds']} to the predictor" in told


def test_the_objects_name_each_other() -> None:
    labels = OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"],
        OBJECTS["Service"]["spec"]["selector"],
        OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector == labels
    name = OBJECTS["Deployment"]["metadata"]["name"]
    assert OBJECTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == name
    assert POD["containers"][0]["env"][0]["name"] == ENVIRONMENT
    assert {mount["name"] for mount in POD["containers"][0]["volumeMounts"]} == {one["name"] for one in POD["volumes"]}


def test_kserve_calls_the_model_as_the_service(sealed: Path, tmp_path: Path) -> None:
    """Its line is run, from folders of its own."""
    container = PREDICTOR["containers"][0]
    models, names = Path(shutil.copytree(sealed, tmp_path / "models")), tmp_path / "names"
    names.mkdir()
    variables = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    (secret,) = (one for one in container["env"] if "value" not in one)
    assert secret == POD["containers"][0]["env"][0], "keys are asked for, unless somebody takes them out"
    assert (secret["name"], "optional" in secret["valueFrom"]["secretKeyRef"]) == (ENVIRONMENT, False)
    assert variables["MODEL"] == KSERVE["metadata"]["name"]
    assert variables["STORAGE_URI"].endswith("/"), "the initializer fetches whatever begins so"
    line = container["args"][0].replace("/mnt/models", str(models)).replace("/names", str(names))
    made, _, served = line.replace("$MODEL", variables["MODEL"]).partition("&& exec bertline serve ")
    for _ in range(3):  # its folder outlives a container that is started again
        subprocess.run(["sh", "-c", made], check=True)
    bundle, *options = shlex.split(served)
    assert options == ["--host", "0.0.0.0"]
    with serving(bundle) as running, urllib.request.urlopen(f"{running.url}/v2/models/demo", timeout=10) as answer:
        assert re.fullmatch("demo", json.load(answer)["name"])
