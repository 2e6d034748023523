"""How the runtimes are set up."""

from pathlib import Path

from bertline.artifacts import bundle
from bertline.serve.runtimes import OpenVino


def test_openvino_leaves_it_to_the_system_which_cores_its_threads_are_on(tiny_bundle: Path) -> None:
    """Pinned, those of two processes on one machine would all be on its first cores."""
    runtime = OpenVino(tiny_bundle / bundle.MODEL, threads=1)
    assert runtime._model.get_property("ENABLE_CPU_PINNING") is False
