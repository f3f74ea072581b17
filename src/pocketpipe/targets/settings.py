"""CompileSettings: what is asked of compiling beyond the choice of targets."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pocketpipe.doors import Value

if TYPE_CHECKING:
    from pocketpipe.targets.base import Target

MOST_THREADS = 64


class TuneSettings(Value):
    """How much may be measured to find better schedules, for each target that runs on this host."""

    trials: Annotated[int, Field(ge=1)] = 24
    """Candidates for each distinct kernel of a network."""
    minutes: Annotated[float, Field(gt=0)] = 10.0
    """In all."""


class CompileSettings(Value):
    """The `compile` section of a configuration.

    >>> CompileSettings(tune={"trials": 8}).tune
    TuneSettings(trials=8, minutes=10.0)
    """

    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] = 1
    """That share the work of one example, on targets that have threads."""
    tune: TuneSettings | None = None
    """Null: schedules by rule alone."""

    def mistakes(self, target: "Target", *, where: str) -> Iterator[str]:
        """What `target` cannot do of this, a line each; `where` is the key path of this section."""
        if self.threads > 1 and not target.threaded:
            yield f"{where}.threads: {self.threads}, but {target.name} runs on one: set 1, or take it out of targets"
