"""Fingerprints: equal things equal, different things different, in every process."""

import subprocess
import sys
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketpipe.budget import Budget
from pocketpipe.doors import Value
from pocketpipe.evaluation import Subject
from pocketpipe.lineage.fingerprint import engine_versions, fingerprint
from pocketpipe.plan import CompressionPlan

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


class Schedule(Enum):
    COSINE = "cosine"


class Slim(Value):
    ratio: float = 0.5


class Sparse(Value):
    ratio: float = 0.5


@given(JSON, JSON)
def test_equal_if_and_only_if_the_json_is_equal(one: Any, other: Any) -> None:
    import json

    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint(value=one) == fingerprint(value=other)) == same


def test_form_is_16_hexadecimal_digits() -> None:
    assert len(fingerprint()) == 16
    assert int(fingerprint(seed=0), 16) >= 0


def test_order_of_keys_and_kind_of_sequence_do_not_matter() -> None:
    assert fingerprint(a={"x": 1, "y": (1, 2)}) == fingerprint(a={"y": [1, 2], "x": 1})
    assert fingerprint(a={3, 1, 2}) == fingerprint(a=frozenset((2, 3, 1)))


def test_values_count_field_by_field() -> None:
    assert fingerprint(budget=Budget(speedup=2)) == fingerprint(budget=Budget(speedup=2.0))
    assert fingerprint(budget=Budget(speedup=2.0)) != fingerprint(budget=Budget(speedup=2.5))
    assert fingerprint(subject=Subject(name="onnx", file="a")) != fingerprint(subject=Subject(name="onnx", file="b"))


def test_two_kinds_with_the_same_fields_differ() -> None:
    assert fingerprint(step=Slim()) != fingerprint(step=Sparse())
    assert fingerprint(plan=CompressionPlan()) == fingerprint(plan=CompressionPlan())


def test_paths_and_enumerations() -> None:
    assert fingerprint(path=Path("a/b"), kind=Schedule.COSINE) == fingerprint(path=PurePosixPath("a/b"), kind="cosine")


@pytest.mark.parametrize("value", [object(), float("nan"), float("inf"), np.zeros(2), {1: "a"}, b"raw", Slim, print])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="part"):
        fingerprint(part=[value])


def test_same_in_another_process_with_another_hash_seed() -> None:
    script = "from pocketpipe.lineage.fingerprint import fingerprint; print(fingerprint(a={'z', 'y', 'x'}, b=0.1))"
    prints = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert prints == {fingerprint(a={"z", "y", "x"}, b=0.1)}


def test_engine_versions_are_those_imported() -> None:
    assert engine_versions(["numpy", "no-such-engine"]) == {"numpy": np.__version__, "no-such-engine": "absent"}
