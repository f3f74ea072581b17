"""Verdict: one requirement, asked and got, and on which delivered file it was measured."""

from typing import Literal

from pocketpipe.doors import Value

Status = Literal["passed", "failed", "not measured"]


class Verdict(Value):
    """What became of one requirement.

    >>> verdict = Verdict(
    ...     requirement="speedup", asked=">= 2.50x MACs", got="2.53x", file="student.onnx", status="passed"
    ... )
    >>> print(verdict)
    speedup: asked >= 2.50x MACs, got 2.53x on student.onnx: passed
    """

    requirement: str
    asked: str
    got: str
    file: str
    status: Status
    reason: str | None = None
    """Why it failed or was not measured, and what to do."""

    def __str__(self) -> str:
        tail = f" ({self.reason})" if self.reason else ""
        return f"{self.requirement}: asked {self.asked}, got {self.got} on {self.file}: {self.status}{tail}"


def budget_kept(verdicts: tuple[Verdict, ...]) -> bool:
    """Whether no verdict failed; what was not measured is said, and does not fail."""
    return all(verdict.status != "failed" for verdict in verdicts)
