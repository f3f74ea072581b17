"""CompileSettings: what is asked of compiling beyond the choice of targets."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from pocketpipe.doors import Value
from pocketpipe.targets.base import Target

MOST_THREADS = 64


class CompileSettings(Value):
    """The `compile` section of a configuration.

    >>> CompileSettings().threads
    1
    """

    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] = 1
    """That share the work of one example, on targets that have threads."""

    def mistakes(self, target: Target, *, where: str) -> Iterator[str]:
        """What `target` cannot do of this, a line each; `where` is the key path of this section."""
        if self.threads > 1 and not target.threaded:
            yield f"{where}.threads: {self.threads}, but {target.name} runs on one: set 1, or take it out of targets"
