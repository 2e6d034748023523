"""DeepSpeed's launcher: builds the command line and environment that start a run's ranks, and runs it to its end.

For one machine, `command` builds the line that `deepspeed … --module bertline.train RECIPE …` would itself start there,
with `python -m bertline.launch.deepspeed_launcher` as the launcher: DeepSpeed takes seconds to import, and this module
imports only what it uses. For a hostfile, `command` builds the `deepspeed` line.
"""

import base64
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bertline.artifacts import machine
from bertline.artifacts.errors import InputError, PreemptedError
from bertline.launch.devices import Devices
from bertline.models import imports
from bertline.train import preemption

GRACE = 20.0
"""Seconds that ranks have to end after being told to; DeepSpeed's launcher itself takes a few of them."""
STDERR = 2
"""The file descriptor that all output of the launcher and the ranks goes to."""


def command(
    recipe: Path, devices: Devices, sets: Sequence[str] = (), run: Path | None = None, resume: bool = False
) -> list[str]:
    """The command line: DeepSpeed's launcher, run by this same Python, and the command line of each rank.

    Without a hostfile it is the launcher of a single machine, which gets its ranks in the form that `deepspeed` uses;
    with one it is `deepspeed` itself.

    Args:
        recipe: YAML file.
        devices: one for each rank.
        sets: KEY=VALUE overrides of the recipe.
        run: folder of the run.
        resume: continue the run in that folder.
    """
    far = devices.kind == "hosts"
    world = base64.urlsafe_b64encode(json.dumps(devices.slots).encode()).decode()  # CUDA_VISIBLE_DEVICES is set from it
    program, which = "bertline.launch.deepspeed_launcher", f"--world_info={world}"
    if far:
        program, which = "deepspeed.launcher.runner", f"--hostfile={devices.hostfile}"
    line = [sys.executable, "-m", program, "--log_level=critical"]
    line += [f"--master_port={machine.free_port()}", which]
    if far:
        line.append("--force_multi")  # else the ranks of a hostfile with one machine would be started here
    rank = [str(recipe)]
    for override in sets:
        rank += ["--set", override]
    if run is not None:
        rank += ["--run", str(run.absolute() if far else run)]  # `stop_command` finds the ranks by it
    if resume:
        rank.append("--resume")
    if far:
        rank = [_quoted(word) for word in rank]
    return [*line, "--module", "bertline.train", *rank]


def environment(devices: Devices) -> dict[str, str]:
    """The environment for `command` with the same devices.

    Each CPU rank gets its share of the cores. The folder of this Python's programs is on PATH, because DeepSpeed ops
    that a recipe's `deepspeed` section asks for are built with ninja.

    Raises:
        InputError: pdsh or ssh is needed and not installed.
    """
    variables = dict(os.environ)
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)])
    missing = [name for name in ("pdsh", "ssh") if not shutil.which(name, path=variables["PATH"])]
    if missing and devices.kind == "hosts":
        raise InputError(
            f"--hostfile: {' and '.join(missing)} not found on PATH; DeepSpeed needs both to reach other machines. "
            "Slurm and Kubernetes need neither: docs/cluster.md"
        )
    if devices.kind == "gpu":
        variables["DS_ACCELERATOR"] = "cuda"  # or DeepSpeed takes the CPU if torch cannot use them
    if devices.kind == "cpu":
        variables.pop("CUDA_VISIBLE_DEVICES", None)
        variables["DS_ACCELERATOR"] = "cpu"
        variables["OMP_NUM_THREADS"] = str(max(1, machine.cores() // devices.ranks))
    return variables


def stop_command(devices: Devices, run: Path) -> list[str]:
    """The command that sends SIGUSR1 to a run's ranks on all machines; empty if they are on this machine.

    DeepSpeed's launcher cannot do that: it can only kill every run on those machines, without letting them save.
    """
    if devices.kind != "hosts":
        return []
    ranks = rf"bertline\.train --local_rank=.* --run {re.escape(str(run.absolute()))}( |$)"
    kill = f"pkill -USR1 -f {shlex.quote(ranks)}".replace("%", "%%")
    return ["pdsh", "-R", "ssh", "-w", ",".join(devices.slots), kill]


def run(line: Sequence[str], variables: dict[str, str], remotely: Sequence[str] = ()) -> int:
    """Start the ranks and wait for them; whatever ends this process ends them too.

    SIGTERM and SIGUSR1 are passed on to the ranks, which save a checkpoint and end; after SIGTERM they have GRACE
    seconds. A second signal ends them at once. Their stdout goes to stderr.

    Args:
        line: made by `command`.
        variables: made by `environment`.
        remotely: made by `stop_command`, if ranks are on other machines.

    Returns:
        The exit code of the rank that failed, or 0.
    """
    # DeepSpeed's launchers, which SIGUSR1 would kill, inherit that it is ignored; ranks install their own handler
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # close_fds: ranks inherit locks that were made inheritable, and hold them even if this process is killed
    launcher = subprocess.Popen(line, env=variables, stdout=STDERR, start_new_session=True, close_fds=False)

    def ask() -> None:
        if remotely:
            subprocess.Popen(remotely, env=variables, stdin=subprocess.DEVNULL, stdout=STDERR)
        else:
            os.killpg(launcher.pid, signal.SIGUSR1)

    with _ending(launcher, ask):
        # a timeout makes it poll: Ray cancels without a real signal, which a blocking wait would miss
        code = launcher.wait(threading.TIMEOUT_MAX)
    signal.signal(signal.SIGUSR1, before)
    if code and sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # show the cursor again: a killed rank's progress bar has left it hidden
    if code not in (0, 1, 2, PreemptedError.exit_code):
        print(f"a rank ended with {_explain(code)}; its last output is above", file=sys.stderr)
    return code


@contextmanager
def _ending(launcher: "subprocess.Popen[Any]", ask: Callable[[], None]) -> Iterator[None]:
    """End the launcher and its ranks with the block: they have their own session, which Ctrl-C does not reach."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    def preempt(number: int, _: object) -> None:
        for again in preemption.SIGNALS:
            signal.signal(again, leave)
        if number == signal.SIGTERM:  # SIGKILL tends to follow soon, and would leave the ranks running
            signal.signal(signal.SIGALRM, lambda *_: leave(number, None))
            signal.setitimer(signal.ITIMER_REAL, GRACE)
        with suppress(ProcessLookupError):
            ask()

    handlers = dict.fromkeys(preemption.SIGNALS, preempt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        handlers[signal.SIGHUP] = leave
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):  # usually none is left
                os.killpg(launcher.pid, number)
                launcher.wait(GRACE)
        for number, handler in before.items():
            signal.signal(number, handler)


def _quoted(word: str) -> str:
    """A word quoted to pass unchanged through pdsh, which replaces %n, and through the remote shells.

    DeepSpeed itself puts a word with a blank in double quotes, but does not escape $ and the like within them.
    """
    word = word.replace("%", "%%")
    return re.sub(r"([\\$`])", r"\\\1", word) if " " in word else shlex.quote(word)


def _explain(code: int) -> str:
    """A rank's exit code in words: Python reports signal N as -N, which becomes 256 - N in eight bits."""
    number = -code if code < 0 else 256 - code
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit code {code}"
    return f"signal {name}" + (": the machine may have run out of memory" if name == "SIGKILL" else "")


if __name__ == "__main__":
    # Some schedulers send SIGTERM to all processes of a job. The ranks unblock it, save a checkpoint and end with 75;
    # DeepSpeed's launcher would end with 1 whatever their exit codes.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with imports.lean():
        from deepspeed.launcher import launch
    launch.main()
