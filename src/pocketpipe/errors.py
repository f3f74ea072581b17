"""Errors that a person reads: what is wrong, where, and what to do, in one line each."""

from collections.abc import Sequence


class UserError(Exception):
    """Something the user can mend. Shown as its message alone, without a traceback.

    >>> str(UserError("network.name: 'resnet9' is unknown; did you mean 'resnet8'?"))
    "network.name: 'resnet9' is unknown; did you mean 'resnet8'?"
    """


class Mistakes(UserError):
    """All mistakes found by one check, listed together so that they are mended in one go.

    >>> print(Mistakes(["budget.speedup: 0.5 is below 1", "network.name: 'resnet9' is unknown"]))
    budget.speedup: 0.5 is below 1
    network.name: 'resnet9' is unknown
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


class Diverged(UserError):
    """A training's loss is no number any more. Where several are compared, the others go on."""


class NotMeasured(Exception):
    """A figure cannot be had on this machine (no emulator, say); the message says how to get it."""


def first_line(error: BaseException) -> str:
    """What an exception says, in a line without a full stop; its class where it says nothing.

    >>> first_line(ValueError("not so.\\nBut so.")), first_line(KeyError())
    ('not so', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
