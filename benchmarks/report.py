"""What all measurements have in common at their end: where and when it was, and faults told to people."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from bertline.artifacts import machine
from bertline.artifacts.errors import BertlineError

PACKAGES = ("bertline", "torch", "deepspeed", "transformers", "accelerate", "tokenizers", "datasets")
"""Those whose versions the figures depend on."""


class Command(click.Command):
    """Ends with the exit code that an error stands for, and its words on stderr instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BertlineError as error:
            click.echo(str(error), err=True)
            ctx.exit(error.exit_code)


def say(line: str) -> None:
    """Show a line of progress as it is, on stderr."""
    click.echo(line, err=True)


def dated(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with the machine, the versions and the time it is of."""
    return {
        **result,
        "machine": machine.describe().model_dump(mode="json"),
        "versions": machine.versions(*PACKAGES),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
