"""The OpenAPI document and the server say the same: schemathesis asks whatever the one allows or forbids."""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from bertline.benchmarks.serve.serving import serving
from tests.e2e.tiny import TASKS

KEY = "a-key-of-ours"
# 413 is an answer to a body that no schema allows. That all shapes are the lengths of their data no schema can say, so
# that of what it allows of tensors some is refused.
SETTINGS = """
[checks]
negative_data_rejection.expected-statuses = ["400", "401", "404", "405", "413", "415", "422"]

[[operations]]
include-path-regex = "/v2/models/.*/infer"
checks.positive_data_acceptance.enabled = false
"""


@pytest.fixture(scope="module")
def served(tiny_bundle: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A bundle of each task, by its name."""
    folder = tmp_path_factory.mktemp("served")
    return [Path(shutil.copytree(tiny_bundle("bert", task), folder / task)) for task in TASKS]


@pytest.mark.parametrize("examples", [10, pytest.param(1000, marks=pytest.mark.load)])
def test_no_check_fails(served: list[Path], tmp_path: Path, examples: int) -> None:
    settings, keys = tmp_path / "schemathesis.toml", tmp_path / "keys"
    settings.write_text(SETTINGS)
    keys.write_text(KEY)
    with serving(*served, "--api-keys", keys) as server:
        command: list[str | Path] = [
            str(Path(sys.executable).with_name("schemathesis")), "--config-file", settings, "run",
            f"{server.url}/openapi.json", "--header", f"Authorization: Bearer {KEY}",
            "--max-examples", str(examples), "--no-color", "--seed", "7",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=900, check=False)
        told = "\n".join(line[:300] for line in done.stdout.splitlines())
        assert done.returncode == 0, told + done.stderr
        assert "No issues found" in told
        assert "Traceback" not in server.log.read_text()
        print(told[-1500:])


def test_what_the_document_tells(served: list[Path]) -> None:
    with serving(*served) as server, urllib.request.urlopen(f"{server.url}/openapi.json", timeout=10) as answer:
        document = json.load(answer)
    assert {
        "/",
        "/models/question-answering",
        "/v2/models/question-answering/infer",
        "/metrics",
        "/v2/health/ready",
    } <= document["paths"].keys()
    body = document["paths"]["/models/question-answering"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert body["properties"]["inputs"]["anyOf"][0]["required"] == ["question", "context"]
    assert "components" in document
