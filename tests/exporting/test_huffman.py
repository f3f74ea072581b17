"""Huffman codes against brute force, the entropy bound, and themselves on the way back."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketpipe.exporting.bits import Damaged
from pocketpipe.exporting.huffman import LANE, Code, code_lengths, decode, encode

COUNTS = st.lists(st.integers(1, 10_000), min_size=2, max_size=300)


def least_total(counts: list[int]) -> int:
    """The least total of any prefix code: all lengths that satisfy Kraft's inequality are tried."""
    lengths = itertools.product(range(1, len(counts)), repeat=len(counts))
    return min(
        sum(c * n for c, n in zip(counts, some, strict=True)) for some in lengths if sum(2.0**-n for n in some) <= 1
    )


@pytest.mark.parametrize("counts", [[1, 1], [5, 1, 1], [1, 1, 2, 3, 5], [8, 8, 8, 8, 8], [100, 1, 1, 1, 1, 1]])
def test_lengths_are_the_best_of_all_prefix_codes(counts: list[int]) -> None:
    total = int((code_lengths(counts).astype(int) * counts).sum())
    assert total == (least_total(counts) if len(counts) > 2 else sum(counts))


@given(COUNTS)
def test_a_symbol_takes_at_least_its_entropy_and_less_than_a_bit_more(counts: list[int]) -> None:
    shares = np.array(counts) / sum(counts)
    entropy = -(shares * np.log2(shares)).sum()
    mean = (code_lengths(counts) * shares).sum()
    assert entropy - 1e-9 <= mean < entropy + 1


@given(COUNTS)
def test_codes_are_prefix_free_and_waste_nothing(counts: list[int]) -> None:
    code = Code.of_lengths(code_lengths(counts))
    words = [
        format(int(word), "064b")[: int(n)] for word, n in zip(code.left_aligned.tolist(), code.lengths, strict=True)
    ]
    assert words == sorted(words)
    assert all(not later.startswith(word) for word, later in itertools.pairwise(words))
    assert sum(2.0 ** -len(word) for word in words) == 1


@pytest.mark.parametrize("count", [2, LANE - 1, LANE, LANE + 1, 5 * LANE + 17, 3_000_000])
def test_streams_come_back(count: int) -> None:
    symbols = np.minimum(np.random.default_rng(count).geometric(0.3, count) - 1, 40).astype(np.uint16)
    symbols[:2] = [0, 1][: len(symbols)]
    symbols = np.unique(symbols, return_inverse=True)[1]
    lengths = code_lengths(np.bincount(symbols))
    rank = np.empty(len(lengths), np.uint16)
    rank[np.argsort(lengths, kind="stable")] = np.arange(len(lengths))
    code = Code.of_lengths(lengths)
    stream = encode(rank[symbols], code)
    assert np.array_equal(decode(stream, count, code), rank[symbols])
    bits = code.bits(np.bincount(rank[symbols], minlength=len(lengths)))
    assert bits / 8 <= len(stream) <= bits / 8 + 2.5 * (count // LANE + 1) + 4


def test_codes_much_longer_than_a_byte() -> None:
    """Fibonacci counts give the longest codes that there are: one symbol for each length."""
    counts = [1, 1]
    while len(counts) < 26:
        counts.append(counts[-1] + counts[-2])
    lengths = code_lengths(counts)
    assert lengths.max() == len(counts) - 1
    code = Code.of_lengths(lengths)
    symbols = np.random.default_rng(0).permutation(np.arange(len(counts)).repeat(50)).astype(np.uint16)
    assert np.array_equal(decode(encode(symbols, code), len(symbols), code), symbols)


@pytest.mark.parametrize("counts", [[], [3], [2, 1], [0, 3], [1, 1], [0] * 60 + [2]])
def test_what_is_no_complete_code_is_refused(counts: list[int]) -> None:
    with pytest.raises(Damaged):
        Code(counts)
