"""The calls of a network in C, some of which several threads share: who does what is `team.h`'s."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TEAM = "team.h"
FEATURES = "#define _GNU_SOURCE /* CPUs of threads */"
"""Before all includes of what includes TEAM."""

_TEAM = """\
struct places {{
    unsigned char *arena;
    const float *input;
    float *output;
}};

/* Part number `part` of step number `step`. */
static void compute_part(int step, int part, const struct places *places) {{
    {type} *const arena = ({type} *)places->arena;
    const float *const input = places->input;
    float *const output = places->output;
    (void)arena, (void)input, (void)output;
    switch (step) {{
{steps}
    }}
}}

#include "{team}"
"""


@dataclass(frozen=True)
class Shared:
    """A call that is cut into parts: C of one of them, whose number is `part`."""

    text: str
    parts: int


Statement = str | Shared


def call(kernel: str, pointers: Sequence[str], units: int, parts: int) -> Statement:
    """A call of `kernel`, or of its parts, if it is cut: `units` is how much there is to share then.

    >>> call("kernel", ["arena + 0"], 0, 1)
    'kernel(arena + 0);'
    >>> call("kernel", ["arena + 64 + part * 128"], units=9, parts=2)
    Shared(text='kernel(arena + 64 + part * 128, part * 9 / 2, (part + 1) * 9 / 2);', parts=2)
    """
    if parts == 1:
        return f"{kernel}({', '.join(pointers)});"
    bounds = (f"{part} * {units} / {parts}" for part in ("part", "(part + 1)"))
    return Shared(f"{kernel}({', '.join((*pointers, *bounds))});", parts)


def team(statements: Iterable[Statement], threads: int, type_: str) -> str:
    """C in front of the calls: what computes one part of a step, and the threads; nothing for one thread.

    `type_`: of what the arena is taken to consist.
    """
    if threads == 1:
        return ""
    shared = [statement for statement in statements if isinstance(statement, Shared)]
    steps = [f"    case {number}: {each.text} break;" for number, each in enumerate(shared)]
    return _TEAM.format(type=type_, steps="\n".join(steps), team=TEAM)


def body(statements: Iterable[Statement], ends: str) -> str:
    """C of all calls, a line each; `ends`: C of input and output. Where nothing is shared, no thread is created."""
    lines: list[str] = []
    number = 0
    for statement in statements:
        if isinstance(statement, Shared):
            lines.append(f"share(together, {number}, {statement.parts}, &places);")
            number += 1
        else:
            lines.append(statement)
    if number > 0:
        before = [f"const struct places places = {{(unsigned char *)arena, {ends}}};", "const int together = begin();"]
        lines = [*before, *lines, "end(together);"]
    return "\n".join(f"    {line}" for line in lines)
