"""Levels of the x86-64 architecture: chosen by flags, each right on a network with odd channel counts."""

import platform
from pathlib import Path

import numpy as np
import pytest

from pocketpipe.delivery.loader import load
from pocketpipe.delivery.model import cpu_flags
from pocketpipe.targets.native import compile_native
from pocketpipe.targets.toolchain import find_toolchain
from pocketpipe.targets.x86_64 import LEVELS, Level, host_level
from targets.graphs import examples, metadata, reference, tiny

reached = [
    pytest.param(
        level,
        id=name,
        marks=pytest.mark.skipif(
            platform.machine() != "x86_64" or not cpu_flags().issuperset(level.flags), reason="not this CPU's"
        ),
    )
    for name, level in LEVELS.items()
]


@pytest.mark.parametrize("level", reached)
def test_each_level_is_right(tmp_path: Path, level: Level) -> None:
    onnx, inputs = tiny(29), examples((3, 8, 8))
    toolchain = find_toolchain("x86_64")
    made = metadata((3, 8, 8), "x86_64")
    compile_native(onnx, made, tmp_path / "out", cpu=level.cpu(), toolchain=toolchain, run="")
    np.testing.assert_allclose(load(tmp_path / "out")(inputs), reference(onnx, inputs), atol=1e-5)


def test_level_rests_on_all_its_flags() -> None:
    best = frozenset(LEVELS["v4-vnni"].flags)
    assert host_level(best) is LEVELS["v4-vnni"]
    assert host_level(best - {"avx512_vnni"}) is LEVELS["v4"]
    assert host_level(best - {"avx512vl"}) is LEVELS["v3"]
    assert host_level(best - {"avx512vl"} | {"avx_vnni"}) is LEVELS["v3-vnni"]
    older = frozenset(LEVELS["v2"].flags)
    for flag in ("abm", "bmi1", "f16c", "fma", "movbe"):  # each of them a virtual machine may hide
        assert host_level(best - {flag} | older) is LEVELS["v2"]
    assert host_level(best - {"fma"}) is LEVELS["v1"]
    assert host_level(older - {"popcnt"}) is LEVELS["v1"]
    assert host_level(frozenset()) is LEVELS["v1"]
