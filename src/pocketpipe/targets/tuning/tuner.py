"""Tuning of a network's kernels: each distinct workload once, the heaviest first, until trials or time are up."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from rich import get_console
from rich.progress import TimeElapsedColumn
from tvm.tirx import PrimFunc

from pocketpipe.targets.lowering.schedule import Schedule
from pocketpipe.targets.settings import TuneSettings
from pocketpipe.targets.toolchain import Toolchain
from pocketpipe.targets.tuning import metaschedule, space
from pocketpipe.targets.tuning.choosing import clearly_faster
from pocketpipe.targets.tuning.measuring import Bench, Contender
from pocketpipe.targets.tuning.records import Record, Records, Tile, key_of
from pocketpipe.targets.tuning.workloads import FloatWorkload, Workload
from pocketpipe.terminal import Counting

AT_ONCE = 4
"""Candidates that are compiled and timed beside the rule's kernel together."""
ROUNDS, LAST_ROUNDS = 7, 31
OF_ORDER = 3
"""One in so many candidates of ours is another order, or unrolled otherwise."""


@dataclass
class Tuner:
    """Finds schedules within `settings`; what it finds is kept in `records`."""

    settings: TuneSettings
    records: Records
    toolchain: Toolchain
    processor: str
    """This host's, in words."""
    threads: int
    measured: int = 0
    """Candidates so far."""
    reused: int = 0
    """Workloads whose outcome was on record."""
    until: float = field(init=False)

    def __post_init__(self) -> None:
        self.until = perf_counter() + 60 * self.settings.minutes

    def choose(self, workloads: Counter[Workload]) -> dict[Workload, Schedule | PrimFunc]:
        """The workloads for which something is clearly faster than the rule's kernel, and what it is."""
        chosen: dict[Workload, Schedule | PrimFunc] = {}
        left = sum(workload.work * count for workload, count in workloads.items())
        heaviest = sorted(workloads, key=lambda each: -each.work * workloads[each])
        total = len(heaviest) * self.settings.trials
        with Counting("tuning", total, TimeElapsedColumn(), console=get_console()) as progress:
            for workload in heaviest:
                weight = workload.work * workloads[workload]
                now = perf_counter()
                until = now + (self.until - now) * weight / max(left, 1)
                left -= weight
                record = self._outcome(workload, until, progress)
                if record is not None and record.tile is not None:
                    chosen[workload] = _schedule(record.tile)
                elif record is not None and record.trace is not None:
                    assert isinstance(workload, FloatWorkload), "only these are MetaSchedule's"
                    chosen[workload] = metaschedule.replayed(workload.nest, record.trace)
        return chosen

    def _outcome(self, workload: Workload, until: float, progress: Counting) -> Record | None:
        """On record, or measured now; where time is up, of fewer trials than asked for, or None."""
        code = workload.kernel(workload.rule).script()
        engine = f"{version('apache-tvm')} {self.toolchain.name} {self.threads > 1}"
        key = key_of(workload.shape, code, self.processor, engine)
        record = self.records.find(key, self.settings.trials)
        if record is not None:
            self.reused += 1
            progress.advance(self.settings.trials)
            return record
        if perf_counter() >= until:
            return self.records.find(key, 0)
        search = _Search(self, workload, until, progress, key)
        record, complete = search.record(), perf_counter() < until
        # What ran out of time is not kept as if it had had all its trials: the next run looks again.
        self.records.add(record if complete else record.model_copy(update={"trials": search.tried}))
        return record if complete else self.records.find(key, 0)


@dataclass
class _Search:
    """Candidates for one workload."""

    tuner: Tuner
    workload: Workload
    until: float
    progress: Counting
    key: str
    tried: int = 0
    best: tuple[float, Schedule | str] | None = None
    """Share of the rule's time, and what needs it."""

    def __post_init__(self) -> None:
        self.right = self.bench([]).outputs()[0]

    def bench(self, contenders: Sequence[Contender]) -> Bench:
        """Of the rule's kernel, and others."""
        by_rule = self.workload.contender(self.workload.rule)
        return Bench([by_rule, *contenders], self.workload.cpu, self.tuner.toolchain)

    def record(self) -> Record:
        """The outcome."""
        trials = self.tuner.settings.trials
        theirs = trials // 2 if self._describable() else 0
        ours = trials - theirs
        self._try(space.tiles(self.workload.rule, self.workload.most(), self.key), ours - ours // OF_ORDER)
        self._try(list(space.variants(self._best_tile())), ours)
        if theirs and perf_counter() < self.until:
            self._try_metaschedule(theirs)
        return self._confirmed()

    def _best_tile(self) -> Schedule:
        if self.best is None or self.best[0] >= 1:
            return self.workload.rule
        assert isinstance(self.best[1], Schedule), "MetaSchedule comes last"
        return self.best[1]

    def _describable(self) -> bool:
        return self.tuner.threads == 1 and isinstance(self.workload, FloatWorkload) and metaschedule.describable(
            self.workload.nest
        )  # fmt: skip

    def _try(self, schedules: list[Schedule], trials: int) -> None:
        while schedules and self.tried < trials and perf_counter() < self.until:
            now, schedules = schedules[: min(AT_ONCE, trials - self.tried)], schedules[AT_ONCE:]
            bench = self.bench([self.workload.contender(schedule) for schedule in now])
            rule, *others = bench.seconds(ROUNDS)
            for schedule, times, outputs in zip(now, others, bench.outputs()[1:], strict=True):
                if _same(outputs, self.right):
                    self._note(_share(rule, times), schedule)
            self._count(len(now))

    def _try_metaschedule(self, trials: int) -> None:
        assert isinstance(self.workload, FloatWorkload)

        def bench(kernel: PrimFunc) -> Bench:
            return Bench([self._of_others(kernel)], self.workload.cpu, self.tuner.toolchain)

        nest = self.workload.nest
        trace = metaschedule.best_trace(nest, self.workload.cpu.target, trials, bench, self.right, self.until)
        if trace is not None:
            rule, times = self.bench([self._contender(trace)]).seconds(ROUNDS)
            self._note(_share(rule, times), trace)
        self._count(trials if perf_counter() < self.until else 0)

    def _of_others(self, kernel: PrimFunc) -> Contender:
        return Contender(kernel, self.workload.arguments(None))

    def _note(self, share: float, candidate: Schedule | str) -> None:
        if self.best is None or share < self.best[0]:
            self.best = share, candidate

    def _count(self, candidates: int) -> None:
        self.tried += candidates
        self.tuner.measured += candidates
        self.progress.advance(candidates)

    def _confirmed(self) -> Record:
        """The best candidate once more, beside the rule's kernel alone: it is taken if it is clearly faster."""
        found: dict[str, Any] = {}
        if self.best is not None and self.best[0] < 1:
            candidate = self.best[1]
            rule, times = self.bench([self._contender(candidate)]).seconds(LAST_ROUNDS)
            found = {"rule_us": 1e6 * median(rule), "best_us": 1e6 * median(times)}
            if clearly_faster(rule, times):
                found |= {"trace": candidate} if isinstance(candidate, str) else {"tile": _tile(candidate)}
        return Record(
            workload=repr(self.workload.shape), key=self.key, trials=self.tuner.settings.trials,
            **found,
        )  # fmt: skip

    def _contender(self, candidate: Schedule | str) -> Contender:
        if isinstance(candidate, Schedule):
            return self.workload.contender(candidate)
        assert isinstance(self.workload, FloatWorkload), "only these are MetaSchedule's"
        return self._of_others(metaschedule.replayed(self.workload.nest, candidate))


def _share(rule: Sequence[float], times: Sequence[float]) -> float:
    return median(b / a for a, b in zip(rule, times, strict=True))


def _same(outputs: np.ndarray, right: np.ndarray) -> bool:
    """To the bit: no schedule of ours takes a sum in another order."""
    return np.array_equal(outputs, right)


def _schedule(tile: Tile) -> Schedule:
    return Schedule(**dict(tile))


def _tile(schedule: Schedule) -> Tile:
    return Tile(pixels=schedule.pixels, vectors=schedule.vectors, order=schedule.order, unroll=schedule.unroll)


def host_processor(lines: Iterator[str]) -> str:
    """The processor's name in /proc/cpuinfo.

    >>> host_processor(iter(["model name\\t: Some CPU @ 2 GHz", "flags : fma"]))
    'Some CPU @ 2 GHz'
    """
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part")))
    return next(named, "unknown")
