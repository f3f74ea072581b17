"""When a candidate counts as faster: by a clear margin, in interleaved rounds, or not at all."""

from collections.abc import Sequence
from statistics import median

MARGIN = 0.03
"""A kernel must take at least this share less, in the median: what is less drowns in the noise of a machine."""
WINS = 0.75
"""Share of rounds in which it must be faster at all."""


def clearly_faster(
    rule: Sequence[float], candidate: Sequence[float], margin: float = MARGIN, wins: float = WINS
) -> bool:
    """Whether the candidate was faster than what the rule makes, both timed in the same rounds (seconds, paired).

    >>> clearly_faster([10.0, 10.2, 9.9, 10.1], [8.0, 8.1, 8.0, 8.2])
    True
    >>> clearly_faster([10.0, 10.2, 9.9, 10.1], [9.9, 10.1, 9.8, 10.0])  # by less than the margin
    False
    >>> clearly_faster([10.0, 10.0, 10.0, 10.0, 10.0], [5.0, 5.0, 5.0, 12.0, 12.0])  # too seldom
    False
    """
    shares = [b / a for a, b in zip(rule, candidate, strict=True)]
    return median(shares) <= 1 - margin and sum(share < 1 for share in shares) >= wins * len(shares)
