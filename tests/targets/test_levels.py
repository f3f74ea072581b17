"""Levels of the x86-64 architecture: chosen by flags, each right on a network with odd channel counts."""

import platform
from pathlib import Path

import numpy as np
import pytest

from pocketpipe.delivery.loader import cpu_flags, load
from pocketpipe.targets.native import compile_native
from pocketpipe.targets.toolchain import find_toolchain
from pocketpipe.targets.x86_64 import LEVELS, host_cpu
from targets.graphs import examples, metadata, reference, tiny


@pytest.mark.skipif(platform.machine() != "x86_64", reason="executes x86-64 code")
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level[0])
def test_each_level_is_right(tmp_path: Path, level: tuple[str, tuple[str, ...], int, int]) -> None:
    flags = frozenset(level[1])
    if not flags <= cpu_flags():
        pytest.skip(f"this CPU does not reach {level[0]}")
    cpu, _ = host_cpu(flags)
    onnx, inputs = tiny(29), examples((3, 8, 8))
    compile_native(
        onnx, metadata((3, 8, 8), "x86_64"), tmp_path / "out", cpu=cpu, toolchain=find_toolchain("x86_64"), run=""
    )
    np.testing.assert_allclose(load(tmp_path / "out")(inputs), reference(onnx, inputs), atol=1e-5)


def test_level_rests_on_all_its_flags() -> None:
    best = frozenset(LEVELS[0][1])
    assert host_cpu(best)[0].model == "x86-64-v4"
    assert host_cpu(best - {"avx512vl"})[0].model == "x86-64-v3"
    assert host_cpu(best - {"fma"})[0].model == "x86-64"
    assert host_cpu(frozenset())[0].model == "x86-64"
