"""The errors that bertline raises for its users, and the exit code of each.

    BertlineError              1   the command ran, and the result is negative
    ├── GateError              1   a candidate was measured and did not pass (fidelity, max-drop)
    ├── DamagedError           1   a folder does not match its checksums or golden texts
    ├── PreemptedError        75   a run was asked to stop, and has saved what it needs to resume
    └── InputError             2   the input is wrong: all faults at once, each with its remedy

Any other exception that escapes is a bug in bertline and keeps its traceback.
"""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""errno values that mean a full disk or an exhausted quota."""
WRONG = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP
)  # fmt: skip
"""errno values that mean a path where nothing can be created or read."""


def install_advice(*extras: str) -> str:
    """How to install missing extras of bertline, as the end of a message."""
    return f"in bertline's folder: pip install -c constraints.txt '.[{','.join(extras)}]'"


def one_line(error: object) -> str:
    """A library's message without its line ends and repeated blanks."""
    return " ".join(str(error).split())


def first_line(error: object) -> str:
    """The first line of a library's message, where the rest is detail or advice for programmers."""
    return str(error).strip().partition("\n")[0]


class BertlineError(Exception):
    """The command ran and the result is negative. The message is one line, or a few, for the user."""

    exit_code = 1


class GateError(BertlineError):
    """A measurement did not pass: the message says what was measured, by how much it failed, and the bound."""


class DamagedError(BertlineError):
    """An artifact differs from its own records: the message names the file."""


class PreemptedError(BertlineError):
    """A run was asked to stop and can be resumed; the exit code is EX_TEMPFAIL of sysexits.h: try again later."""

    exit_code = 75


class InputError(BertlineError):
    """The input is wrong.

    Args:
        faults: one sentence for every fault, not only the first: where it is, what was found, what is expected.
    """

    exit_code = 2

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
