"""Measured schedules compute what the rule's do, are taken only where they are faster, and are not measured twice."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.delivery.model import cpu_flags
from pocketpipe.pipelines.compile.nodes import untuned
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.lowering.integers.geometry import SumOfProducts
from pocketpipe.targets.lowering.nest import Apply, EpilogueStep, Nest, Spread, convolution, matrix_product
from pocketpipe.targets.lowering.schedule import Order, Schedule
from pocketpipe.targets.settings import CompileSettings, TuneSettings
from pocketpipe.targets.toolchain import find_toolchain
from pocketpipe.targets.tuning import delivering, metaschedule, space, tuner
from pocketpipe.targets.tuning.choosing import clearly_faster
from pocketpipe.targets.tuning.measuring import Bench, Contender
from pocketpipe.targets.tuning.records import Record, Records, Tile
from pocketpipe.targets.tuning.tuner import Tuner
from pocketpipe.targets.tuning.workloads import FloatWorkload, IntegerWorkload, Workload
from pocketpipe.targets.x86_64 import LEVELS, host_level
from targets import digits

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="measures x86-64 code")
CPU = host_level(cpu_flags()).cpu()
BIAS_AND_RELU = (
    EpilogueStep(Apply.ADD, Spread.CHANNEL),
    EpilogueStep(Apply.ADD, Spread.SAME),
    EpilogueStep(Apply.RELU),
)
INTEGERS = SumOfProducts(9, 7, 5, 4, groups=2, read=5, made=37, taps=(3, 3), strides=(2, 2), before=(1, 1), adds=True)


def nest(size: int = 9, channels: int = 37, groups: int = 1) -> Nest:
    found = convolution(
        (1, size, size, 10 * groups), (3, 3, 10, channels * groups), (1, size, size, channels * groups),
        strides=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1), groups=groups, constant=True,
    )  # fmt: skip
    return found.with_epilogue(BIAS_AND_RELU)


@pytest.mark.parametrize(
    ("rule", "candidate", "taken"),
    [
        ([10.0] * 8, [9.0] * 8, True),
        ([10.0] * 8, [10.0] * 8, False),
        ([10.0] * 8, [9.8] * 8, False),
        ([10.0] * 8, [9.0] * 5 + [10.5] * 3, False),
        ([10.0, 20.0, 10.0, 20.0], [9.0, 18.0, 9.0, 18.0], True),  # the machine became slower for both
        ([20.0, 10.0, 10.0, 10.0], [10.0, 10.0, 10.0, 10.0], False),  # one round disturbed
    ],
)
def test_only_a_clear_win_counts(rule: list[float], candidate: list[float], taken: bool) -> None:
    assert clearly_faster(rule, candidate) is taken


def outcome(key: str, trials: int, **found: Any) -> Record:
    return Record(workload="any", key=key, trials=trials, rule_us=2.0, best_us=1.0, **found)


def test_records_are_found_again_unless_more_trials_are_asked(tmp_path: Path) -> None:
    tile = Tile(pixels=3, vectors=2, order=Order.ROWS, unroll=2)
    Records(tmp_path / "new").add(outcome("a", 8))
    Records(tmp_path / "new").add(outcome("a", 16, tile=tile))
    with (tmp_path / "new" / "records.jsonl").open("a") as file:
        file.write('{"workload": "cut off')
    again = Records(tmp_path / "new")
    assert again.find("a", 16) == outcome("a", 16, tile=tile)
    assert again.find("a", 17) is None
    again.add(outcome("a", 4))  # time was up
    assert again.find("a", 16) == Records(tmp_path / "new").find("a", 16) == outcome("a", 16, tile=tile)
    assert again.find("b", 1) is None


@pytest.mark.parametrize(
    "shape", [nest(), nest(groups=2), matrix_product((1, 33, 20), (20, 50), constant=True), INTEGERS]
)
def test_every_schedule_computes_the_same_bits(shape: Any) -> None:
    workload: Workload
    workload = IntegerWorkload(shape, CPU) if isinstance(shape, SumOfProducts) else FloatWorkload(shape, CPU)
    some = space.tiles(workload.rule, workload.most(), "seed")[:2]
    tried = [*some, *(variant for variant in space.variants(some[0]) if variant.unroll != 2)]
    contenders = [workload.contender(schedule) for schedule in (workload.rule, *tried)]
    right, *others = Bench(contenders, CPU, find_toolchain("x86_64")).outputs()
    assert len(np.unique(right)) > 20
    assert all(np.array_equal(right, found) for found in others)


@pytest.mark.skipif(not cpu_flags().issuperset(LEVELS["v3"].flags), reason="executes AVX2")
def test_tiles_of_more_registers_than_are_narrowed_at_once_compute_the_same_bits() -> None:
    cpu = LEVELS["v3"].cpu()
    workload = IntegerWorkload(replace(INTEGERS, groups=1, made=61), cpu)
    assert max(workload.most()[1]) == 8
    tiles = [replace(workload.rule, pixels=2, vectors=vectors) for vectors in (1, 3, 5, 7, 8)]
    bench = Bench([workload.contender(tile) for tile in tiles], cpu, find_toolchain("x86_64"))
    right, *others = bench.outputs()
    assert all(np.array_equal(right, found) for found in others)


class Recorded(Bench):
    """Times and outputs as a test says them, nothing is compiled."""

    share = 1.0
    right = True

    def __init__(self, contenders: Sequence[Any], *rest: Any) -> None:
        self.count = len(contenders)

    def outputs(self) -> list[np.ndarray]:
        return [np.zeros(3), *(np.full(3, 0.0 if self.right else 1.0) for _ in range(self.count - 1))]

    def seconds(self, rounds: int) -> list[list[float]]:
        return [[1.0] * rounds, *([self.share] * rounds for _ in range(self.count - 1))]


@pytest.mark.parametrize(
    ("share", "right", "tuned"), [(0.8, True, 1), (0.99, True, 0), (1.2, True, 0), (0.5, False, 0)]
)
def test_what_is_not_faster_or_not_right_is_left(
    share: float, right: bool, tuned: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorded, "share", share)
    monkeypatch.setattr(Recorded, "right", right)
    monkeypatch.setattr(tuner, "Bench", Recorded)
    workloads: Counter[Workload] = Counter({IntegerWorkload(INTEGERS, CPU): 2})

    def tune(trials: int, minutes: float = 1.0) -> Tuner:
        made = Tuner(
            TuneSettings(trials=trials, minutes=minutes), Records(tmp_path), find_toolchain("x86_64"), "this CPU", 1
        )
        assert len(made.choose(workloads)) == (tuned if minutes == 1.0 else 0)
        return made

    assert tune(6, minutes=1e-9).measured == 0  # no time, no record
    assert tune(6).measured == 6
    assert (tune(6).measured, tune(6).reused) == (0, 1)
    assert tune(7).measured == 7
    in_no_time = Tuner(TuneSettings(trials=9, minutes=1e-9), Records(tmp_path), find_toolchain("x86_64"), "this CPU", 1)
    assert len(in_no_time.choose(workloads)) == tuned  # what fewer trials found


def test_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Recorded):
        def seconds(self, rounds: int) -> list[list[float]]:
            until = perf_counter() + 0.05
            while perf_counter() < until:
                pass
            return super().seconds(rounds)

    monkeypatch.setattr(tuner, "Bench", Slow)
    workloads: Counter[Workload] = Counter({IntegerWorkload(INTEGERS, CPU): 2})
    settings = TuneSettings(trials=1000, minutes=0.5 / 60)
    started = perf_counter()
    made = Tuner(settings, Records(tmp_path), find_toolchain("x86_64"), "this CPU", 1)
    made.choose(workloads)
    assert perf_counter() - started < 2
    assert 0 < made.measured < 1000


@pytest.mark.parametrize(("share", "tuned"), [(0.9, 3), (1.1, 0)])
def test_a_network_that_is_not_faster_as_a_whole_stays_as_it_is(
    share: float, tuned: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(self: Tuner, workloads: Counter[Workload]) -> dict[Workload, Schedule]:
        return {workload: Schedule(1, 1, Order.ROWS, 2) for workload in list(workloads)[:3]}

    monkeypatch.setattr(Tuner, "choose", choose)
    monkeypatch.setattr(delivering, "_seconds", lambda *libraries: [[1.0] * 9, [share] * 9])
    folder, stored = tmp_path / "out", digits.data()[1].inputs[:20]
    figures = TARGETS.resolve("x86_64").compile_tuned(
        digits.quantized_file(), digits.metadata("x86_64"), folder, TuneSettings(), tmp_path / "records"
    )
    assert figures["tuned_ratio"] == share
    assert DeliveryMetadata.read(folder).tuned == tuned
    assert np.array_equal(TARGETS.resolve("x86_64").run(folder, stored), digits.right(stored))


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [True, False], ids=["integers", "float"])
def test_a_network_is_tuned_once(quantized: bool, tmp_path: Path) -> None:
    onnx, target = digits.quantized_file() if quantized else digits.float_file(), TARGETS.resolve("x86_64")
    stored = digits.data()[1].inputs[:20]
    target.compile(onnx, digits.metadata("x86_64"), tmp_path / "rule")
    figures = [
        target.compile_tuned(
            onnx,
            digits.metadata("x86_64"),
            tmp_path / str(number),
            TuneSettings(trials=3, minutes=5),
            tmp_path / "kept",
        )
        for number in range(2)
    ]
    assert figures[0]["candidates"] > 0
    assert figures[0]["reused"] == 0
    assert figures[1]["candidates"] == 0
    assert figures[1]["reused"] == len((tmp_path / "kept" / "records.jsonl").read_text().splitlines()) > 3
    right = target.run(tmp_path / "rule", stored)
    for number in range(2):
        outputs = target.run(tmp_path / str(number), stored)
        assert np.array_equal(outputs, right) if quantized else np.allclose(outputs, right, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("depthwise", [False, True])
def test_metaschedule_proposes_kernels_that_compute_the_same(depthwise: bool) -> None:
    shape = nest()
    if depthwise:
        shape = convolution(
            (1, 9, 9, 20), (3, 3, 1, 20), (1, 5, 5, 20), strides=(2, 2), padding=(1, 1, 1, 1), dilation=(1, 1),
            groups=20, constant=True,
        )  # fmt: skip
    workload = FloatWorkload(shape, CPU)

    def bench(made: Any) -> Bench:
        return Bench([Contender(made, workload.arguments(None))], CPU, find_toolchain("x86_64"))

    right = Bench([workload.contender(workload.rule)], CPU, find_toolchain("x86_64")).outputs()[0]
    trace = metaschedule.best_trace(shape, CPU.target, 2, bench, right, perf_counter() + 300)
    assert trace is not None
    assert np.allclose(bench(metaschedule.replayed(shape, trace)).outputs()[0], right, rtol=1e-4, atol=1e-4)


def test_a_target_that_does_not_run_here_says_so() -> None:
    settings = CompileSettings(tune=TuneSettings())
    assert list(untuned("x86_64", settings)) == []
    assert list(untuned("aarch64", CompileSettings())) == []
    (line,) = untuned("aarch64", settings)
    assert line == "compile.tune: aarch64 cannot be timed on x86_64; its schedules are by rule"
    (line,) = untuned("fpga", settings)
    assert line == "compile.tune: fpga has nothing to be measured; its schedules are by rule"
