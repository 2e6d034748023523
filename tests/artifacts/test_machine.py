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


TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
GROUPS = "/proc/self/cgroup"
SECOND = "/sys/fs/cgroup"
FIRST = "/sys/fs/cgroup/cpu"


def v1(quota: str, group: str = "") -> dict[str, str]:
    """The first version's limit of a group."""
    return {f"{FIRST}{group}/cpu.cfs_quota_us": quota, f"{FIRST}{group}/cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        ({}, 3),
        ({GROUPS: "0::/", f"{SECOND}/cpu.max": "max 100000"}, 3),
        ({GROUPS: "0::/", f"{SECOND}/cpu.max": "250000 100000"}, 2),
        ({GROUPS: "0::/", f"{SECOND}/cpu.max": "50000 100000"}, 1),
        ({GROUPS: "0::/a.slice/b.service", f"{SECOND}/a.slice/b.service/cpu.max": "200000 100000"}, 2),
        (
            {
                GROUPS: "0::/a.slice/b",
                f"{SECOND}/a.slice/cpu.max": "100000 100000",
                f"{SECOND}/a.slice/b/cpu.max": "max",
            },
            1,
        ),
        ({GROUPS: "9:name=systemd:/\n4:cpuacct,cpu:/"} | v1("200000"), 2),
        ({GROUPS: "9:name=systemd:/\n4:cpuacct,cpu:/"} | v1("-1"), 3),
        ({GROUPS: "4:cpu:/docker/of-the-host"} | v1("100000"), 1),  # its own group is the root of what it sees
        ({GROUPS: "4:cpu:/a"} | v1("200000", "/a"), 2),
    ],
)
def test_cores_are_the_physical_ones_that_affinity_and_control_group_leave(
    monkeypatch: pytest.MonkeyPatch, cgroup: dict[str, str], expected: int
) -> None:
    """Six of eight CPUs, in pairs of threads that share a core."""
    pairs = {TOPOLOGY.format(cpu): f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}" for cpu in range(8)}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(machine, "_read", lambda path: {**pairs, **cgroup}.get(str(path), ""))
    assert machine.cores() == expected


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


@pytest.mark.parametrize("name", ["aarch64", "arm64"])
def test_arm_has_a_class_of_its_own(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: name)
    assert machine.cpu_class() == "arm64"
