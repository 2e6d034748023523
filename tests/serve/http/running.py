"""`bertline serve`, run as a user's shell would."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel


class _Line(BaseModel):
    message: str
    url: str = ""


@contextmanager
def running(*bundles: Path, **options: object) -> Iterator[str]:
    """The URL of a server of these bundles, on a port that was free; it has one core, and has ended well afterwards.

    Args:
        bundles: to answer from.
        options: of the command, as `api_keys=file`.
    """
    settings = {"port": 0, "threads": 1, **options}
    arguments = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [str(Path(sys.executable).with_name("bertline")), "serve", *map(str, bundles), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "BERTLINE_API_KEYS"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        told = []
        for line in server.stderr:
            told.append(line)
            if line.startswith("{") and (url := _Line.model_validate_json(line).url):
                break
        else:
            raise AssertionError("".join(told))
        try:
            yield url
        finally:
            server.terminate()
            server.communicate(timeout=60)
    assert server.returncode == 0
