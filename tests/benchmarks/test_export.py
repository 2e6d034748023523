"""What the benchmark of exports tells where another's command fails."""

import sys
from pathlib import Path

import pytest

from bertline.artifacts.errors import BertlineError
from bertline.benchmarks.export import peers


def test_what_a_failing_command_said_at_its_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "optimum-cli"
    program.write_text("#!/bin/sh\nseq 100 >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(BertlineError, match=r"^optimum-cli export onnx: exit code 3\n96\n97\n98\n99\n100$"):
        peers._cli("export", "onnx")
