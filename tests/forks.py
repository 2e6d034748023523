"""Processes forked from a server that has imported all that they need, which costs each of those spawned seconds."""

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

import pytest

from bertline.train import __main__ as program

ENVIRONMENT = {**program.ENVIRONMENT, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
"""Of the server, which there is one of."""
PRELOAD = ["tests.train.killed", "bertline.models.pytorch", "transformers.models.bert.modeling_bert"]


def context() -> ForkServerContext:
    """What makes such processes; the first call of a test session starts the server."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(PRELOAD)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        forkserver.ensure_running()
    return forks
