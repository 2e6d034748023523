"""What is told of a CPU, held against the kernel's own words."""

import os
from pathlib import Path

import pytest

from bertline.artifacts import machine


def test_this_machine_is_described() -> None:
    found = machine.describe()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_bytes > 1 << 28
    assert found.cpu


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="not Linux")
def test_instruction_sets_are_the_kernels_flags() -> None:
    words = set(Path("/proc/cpuinfo").read_text().split())
    assert set(machine.instruction_sets()) == words & set(machine.INSTRUCTION_SETS)


@pytest.mark.parametrize(
    ("sets", "expected", "bf16"),
    [
        (["avx2", "fma"], "avx2", False),
        (["avx2", "avx512f", "avx512bw", "avx512vl"], "avx512", False),
        (["avx2", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"], "avx512_vnni", False),
        (["avx2", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"], "avx512_vnni", True),
        (["avx2", "avx512_vnni"], "avx2", False),
        ([], "x86", False),
    ],
)
def test_the_class_follows_from_the_instruction_sets(
    monkeypatch: pytest.MonkeyPatch, sets: list[str], expected: str, bf16: bool
) -> None:
    monkeypatch.setattr(machine, "instruction_sets", lambda: sets)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert machine.cpu_class() == expected
    assert machine.computes_bf16() == bf16


def test_absent_packages_have_no_version() -> None:
    assert list(machine.versions("numpy", "no-such-package")) == ["numpy"]
