"""What the lower floors import: in a fresh interpreter, so that nothing another test imported is counted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE = {
    # ours and what `pip install bertline` brings
    "bertline", "click", "numpy", "onnxruntime", "pydantic", "pydantic_core", "yaml", "tokenizers",
    # what those need themselves
    "annotated_types", "typing_extensions", "typing_inspection", "cython_runtime", "flatbuffers", "huggingface_hub",
}  # fmt: skip
SERVER = {"anyio", "httptools", "idna", "prometheus_client", "sniffio", "starlette", "uvicorn", "uvloop"}
"""What the extra [serve] brings beside."""


@pytest.mark.parametrize(
    ("folders", "allowed"), [(("artifacts", "tasks", "serve"), BASE), (("serve/http",), BASE | SERVER)]
)
def test_floors_1_to_3_import_only_what_their_extra_brings(folders: tuple[str, ...], allowed: set[str]) -> None:
    """Of the server all but what tells of requests by OpenTelemetry, an extra of its own."""
    modules = [
        ".".join(["bertline", *path.relative_to(ROOT).with_suffix("").parts])
        for folder in folders
        for path in sorted((ROOT / folder).glob("[!_]*.py"))
        if path.stem != "spans"
    ]
    assert len(modules) > 10
    script = (
        "import importlib, json, sys\n"
        "before = set(sys.modules)  # what the machine's own interpreter starts with, a sitecustomize say\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "brought = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps(sorted(brought - sys.stdlib_module_names)))"
    )
    found = subprocess.check_output([sys.executable, "-c", script], text=True, timeout=60)
    imported = {name for name in json.loads(found) if not name.startswith("_")}
    assert imported - allowed == set()
    assert "tokenizers" in imported


def test_ray_is_imported_only_where_its_engine_is_asked_for(sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a good film"}\n')
    script = (
        "import sys; from bertline.launch.command import main; main(sys.argv[1:], standalone_mode=False); "
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "predict", sealed, "--in", "in.jsonl", "--out", "out.jsonl"],
        cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    modules = done.stdout.split()
    assert "bertline.serve.bulk" in modules
    assert "ray" not in modules
