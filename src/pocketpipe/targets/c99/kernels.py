"""The kernels that a network calls, out of all that `kernels.h` has: a compiler has nothing unused to complain of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files

KERNELS = "kernels.h"
_DEFINED = re.compile(r"^POCKETPIPE_KERNEL \w+ (pocketpipe_\w+)\(", re.MULTILINE)


def kernels_for(calls: Iterable[str]) -> str:
    """`kernels.h` with the functions that these lines of C call, and those that they call in turn."""
    blocks = (files("pocketpipe.targets.c99") / KERNELS).read_text().split("\n\n")
    needed = _called("\n".join(calls))
    kept: list[str] = []
    for block in reversed(blocks):  # whoever is called stands before the caller
        defined = _DEFINED.search(block)
        if defined is not None and defined[1] not in needed:
            continue
        if defined is not None:
            needed |= _called(block)
        kept.append(block)
    return "\n\n".join(reversed(kept))


def _called(text: str) -> set[str]:
    return set(re.findall(r"pocketpipe_\w+(?=\()", text))
