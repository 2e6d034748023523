"""The errors that bertline raises for people, and the exit code each ends a command with.

    BertlineError              1   it ran, and the answer is no
    ├── GateError              1   a candidate was measured and did not pass (fidelity, max-drop)
    ├── DamagedError           1   a folder is not what its checksums or golden texts say
    ├── PreemptedError        75   a run was asked to stop, and has saved what it needs to go on
    └── InputError             2   the input is wrong: every fault at once, each with what would do

Anything else that escapes is a defect of bertline and keeps its traceback.
"""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the system's errors that tell of a full disk, or of a person's part of it."""
WRONG = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP
)  # fmt: skip
"""Numbers of those that tell of a path at which nothing can be made or read."""


def install_advice(*extras: str) -> str:
    """What brings extras of bertline that are not installed, to end a message with."""
    return f"in bertline's folder: pip install -c constraints.txt '.[{','.join(extras)}]'"


class BertlineError(Exception):
    """It ran and the answer is no. The message is one line (or a few) for a person."""

    exit_code = 1


class GateError(BertlineError):
    """Something was measured and did not pass: the message says what, by how much, against which bound."""


class DamagedError(BertlineError):
    """An artefact differs from what it recorded of itself: the message names the file."""


class PreemptedError(BertlineError):
    """A run was asked to stop and can go on; the code is EX_TEMPFAIL of sysexits.h: try again later."""

    exit_code = 75


class InputError(BertlineError):
    """The input is wrong.

    Args:
        faults: one sentence each: where, what was found, what would do. All that could be found, not the first.
    """

    exit_code = 2

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
