"""What all benchmarks share: errors reported without a traceback, and results with their machine, versions and date."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from bertline.artifacts import machine
from bertline.artifacts.errors import BertlineError

PACKAGES = (
    "bertline", "torch", "deepspeed", "transformers", "accelerate", "tokenizers", "datasets", "optuna",
    "optimum", "onnx", "onnxruntime", "openvino", "nncf", "numpy",
)  # fmt: skip
"""Packages whose versions the figures depend on."""


class Command(click.Command):
    """Ends with the exit code of a BertlineError and its message on stderr, instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BertlineError as error:
            click.echo(str(error), err=True)
            ctx.exit(error.exit_code)


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    click.echo(line, err=True)


def dated(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with the machine, the package versions and the time."""
    return {
        **result,
        "machine": machine.describe().model_dump(mode="json"),
        "versions": machine.versions(*PACKAGES),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
