"""Targets whose integers are not those of the integer graph end the run; the operator at fault is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from integer.qdq import statically_quantized
from own.tasks import Shapes
from pocketpipe.budget import Budget
from pocketpipe.champion import Yardstick
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.errors import NotMeasured, UserError
from pocketpipe.evaluation import EvaluateSettings, Evaluation
from pocketpipe.exporting.executing import run_onnx
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.exporting.packing import pack
from pocketpipe.integer import reference
from pocketpipe.integer.graph import Convolution
from pocketpipe.integer.lowering import lower
from pocketpipe.network import StoredNetwork
from pocketpipe.pipelines.evaluate import nodes
from pocketpipe.pipelines.evaluate.integers import expected_of, refuse_differing
from pocketpipe.pipelines.evaluate.nodes import evaluate
from pocketpipe.record import StageRecord
from pocketpipe.targets.base import TARGETS, Target
from pocketpipe.task import Split, TaskChoice

TASK = TaskChoice(name="own.tasks:build", options={"count": 120})
SEARCH = StageRecord(stage="search", metrics={"dense_accuracy": 0.5}, data="val")


@dataclass(frozen=True)
class Made:
    """A quantized student and the split that it is evaluated on."""

    network: StoredNetwork
    """Teacher and, in integers, student."""
    float_onnx: bytes
    onnx: bytes
    test: Split

    def evaluated(self, folder: Path, *targets: str, **settings: int) -> Evaluation:
        """Deliver for these targets, then evaluate."""
        found, record = self.recorded(folder, *targets, **settings)
        assert record.metrics.get("x86_64_differing", 0) == 0
        return found

    def recorded(
        self,
        folder: Path,
        *targets: str,
        search: StageRecord = SEARCH,
        champion: Yardstick | None = None,
        threads: int = 1,
        **settings: int,
    ) -> tuple[Evaluation, StageRecord]:
        """The same with the stage's record."""
        task = TASK.build(folder)
        for name in targets:
            metadata = DeliveryMetadata(
                task="shapes", network="own", target=name, input_shape=task.input_shape, input_dtype="uint8",
                preprocessing=task.preprocessing, labels=task.labels, threads=threads,
            )  # fmt: skip
            TARGETS.resolve(name).compile(self.onnx, metadata, folder / name.replace(":", "."))
        on_device = {"flash_kb": {"x86_64": 64}, "ram_kb": {"x86_64": 0.5}, "latency_ms": {"x86_64": 50}}
        budget = Budget(speedup=1, **(on_device if "x86_64" in targets else {}))
        return evaluate(
            TASK, budget, list(targets), EvaluateSettings(latency_runs=5, **settings), self.test, self.network,
            self.network, self.float_onnx, self.onnx, pack(self.onnx), folder, [], search, folder, champion,
        )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.manual_seed(0)
    task = Shapes(120)
    splits, test = task.load(seed=0, holdout=None)
    teacher = StoredNetwork("own.networks:build", options={"width": 4})
    network = teacher.build(task).eval()
    onnx = export_onnx(network, task.input_shape)
    seen = task.preprocessing(splits.train.inputs[:32])
    quantized = statically_quantized(onnx, seen, tmp_path_factory.mktemp("quantized"))
    return Made(teacher.with_weights(network), onnx, quantized, test)


def test_integers_metric_sizes_and_time_are_those_of_the_delivered_file(made: Made, tmp_path: Path) -> None:
    found = made.evaluated(tmp_path, "x86_64")
    subject, library = found.subject("x86_64"), tmp_path / "x86_64" / "model.so"
    assert (subject.compared, subject.differing) == (len(made.test), 0)
    assert subject.flash_bytes == library.stat().st_size
    assert found.delivered == subject
    assert np.mean(found.scores) == subject.metric
    assert np.mean(found.teacher_scores) == found.subject("teacher").metric
    assert "integers" not in {each.name for each in found.subjects}, "a target saw all examples itself"
    graph = lower(made.onnx)
    outputs = graph.real(reference.run(graph, graph.quantized(Shapes(120).preprocessing(made.test.inputs))))
    assert np.mean(found.scores) == np.mean(outputs.argmax(1) == made.test.targets)
    verdicts = {verdict.requirement: verdict for verdict in found.verdicts if verdict.file == "x86_64/model.so"}
    assert verdicts["same integers"].got == f"0 differ on {len(made.test)} examples"
    assert verdicts["flash_kb"].status == "passed"
    assert verdicts["flash_kb"].got.endswith(f"({library.stat().st_size:,} bytes)")
    assert verdicts["ram_kb"].status == "failed"
    assert verdicts["latency_ms"].status == "passed"
    few = made.evaluated(tmp_path, "x86_64", reference_macs=3 * found.student_cost.macs).subject("x86_64")
    assert (few.compared, few.examples) == (3, len(made.test))


def test_a_quantized_champion_is_measured_by_its_integers(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its own targets had them: what ONNX Runtime makes of its file may round otherwise."""
    found, record = made.recorded(tmp_path, "fpga")
    assert record.warnings == ()
    monkeypatch.setattr(nodes, "run_onnx", lambda onnx_file, inputs: run_onnx(onnx_file, inputs) + 1)
    other = found.model_copy(update={"test_digest": "of another draw"})
    beside, told = made.recorded(tmp_path / "again", "fpga", champion=Yardstick(made.onnx, other))
    assert beside.champion_scores == found.scores
    (line,) = told.warnings
    assert "drawn anew since the champion's, so champion and teacher may have learned from it" in line


def test_data_that_flatters_the_teacher_are_told(made: Made, tmp_path: Path) -> None:
    """By more than three standard errors of a share, as weights have that were trained on them."""
    teacher = made.evaluated(tmp_path, "fpga").subject("teacher").metric
    assert teacher is not None
    error = (teacher * (1 - teacher) / len(made.test)) ** 0.5
    for number, (chosen_on, lines) in enumerate(((teacher + 2.9 * error, 0), (teacher + 3.1 * error, 1))):
        search = SEARCH.model_copy(update={"metrics": {"dense_accuracy": chosen_on}})
        _, record = made.recorded(tmp_path / str(number), "fpga", search=search)
        assert len(record.warnings) == lines
        assert all("flatters it (seen in training?)" in line for line in record.warnings)


def test_several_threads_are_timed(made: Made, tmp_path: Path) -> None:
    found, _ = made.recorded(tmp_path, "x86_64", threads=2)
    subject = found.subject("x86_64")
    assert subject.differing == 0
    assert subject.latency_ms is not None
    assert subject.latency_ms > 0
    assert subject.latency_ratio is not None


def test_where_no_target_saw_all_examples_the_integers_stand_for_them(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for the champion it is compared with: not another rounding of the same file."""

    def nothing(*arguments: object) -> np.ndarray:
        raise NotMeasured("cannot be executed here")

    monkeypatch.setattr(nodes, "run_onnx", lambda onnx_file, inputs: run_onnx(onnx_file, inputs) + 1)
    monkeypatch.setattr(Shapes, "scores", lambda self, outputs, targets: outputs[:, 0])
    monkeypatch.setattr(type(TARGETS.resolve("x86_64")), "run", nothing)
    scores = made.evaluated(tmp_path, "x86_64").scores
    graph = lower(made.onnx)
    integers = reference.run(graph, graph.quantized(Shapes(120).preprocessing(made.test.inputs)))
    assert scores == tuple(graph.real(integers)[:, 0].tolist())


def test_a_metric_of_all_examples_is_that_of_a_subject_where_targets_saw_fewer(made: Made, tmp_path: Path) -> None:
    found = made.evaluated(tmp_path, "cortex_m", emulated_examples=5)
    stands = found.delivered
    assert stands is not None
    assert (stands.name, stands.file, stands.examples) == ("integers", "student.onnx (integer reference)", 24)
    assert stands.metric == found.delivered_metric
    assert {verdict.file for verdict in found.verdicts} == {"student.onnx", "cortex_m/model.elf"}
    few = made.evaluated(tmp_path / "few", "cortex_m", emulated_examples=5, reference_macs=1).delivered
    assert few is not None
    assert few.name == "onnx", "the reference did not see them all either"


def test_a_target_that_rounds_otherwise_ends_the_run_and_its_operator_is_named(made: Made, tmp_path: Path) -> None:
    first = next(operator for operator in lower(made.onnx).operators if isinstance(operator, Convolution))
    message = (
        rf"^own\.targets\.careless/model\.so: [\d,]+ of 72 integers are not the reference's, on \d+ of 24 test "
        rf"examples; operator \d+ '{first.name}' \(Convolution\): element \[.*\] of example \d+ is (-?\d+), and "
        rf"(-?\d+) by the reference; [\d,]+ of [\d,]+ elements differ$"
    )
    with pytest.raises(UserError, match=message):
        made.evaluated(tmp_path, "own.targets:careless")


@pytest.mark.parametrize(
    ("run_integers", "said"),
    [
        (reference.run, "every operator is right by itself, on one thread and by the schedules of rule: what is not"),
        (None, "target 'x86_64' compiles no integer graph by itself, so the operator is not known"),
    ],
)
def test_what_no_operator_explains_is_said(
    made: Made, monkeypatch: pytest.MonkeyPatch, run_integers: Callable[..., np.ndarray] | None, said: str
) -> None:
    target = TARGETS.resolve("x86_64")
    if run_integers is None:
        monkeypatch.setattr(type(target), "compile_integers", Target.compile_integers)
    else:
        monkeypatch.setattr(type(target), "run_integers", staticmethod(run_integers))
    expected = expected_of(made.onnx, Shapes(120).preprocessing(made.test.inputs), 1, 5)
    assert expected is not None
    outputs = expected.outputs + expected.graph.tensors[expected.graph.output].scale
    with pytest.raises(UserError, match=f"x86_64/model.so: 15 of 15 integers .* on 5 of 5 test examples; {said}"):
        refuse_differing(expected, target, "x86_64/model.so", outputs)
    refuse_differing(expected, target, "x86_64/model.so", expected.outputs)


def test_a_network_in_float_has_no_integers(made: Made) -> None:
    assert expected_of(made.float_onnx, made.test.inputs, 1, 5) is None


def test_a_target_that_takes_the_file_as_it_is_is_not_held_to_our_integers(made: Made, tmp_path: Path) -> None:
    """Nor need the file have an integer form: here its output is in float."""
    subject = made.evaluated(tmp_path / "whole", "own.targets:interpreter").subject("own.targets:interpreter")
    assert (subject.compared, subject.max_difference) == (None, 0)
    in_float = replace(made, onnx=_ending_in_float(made.onnx))
    with pytest.raises(UserError, match="the network's output is not quantized"):
        lower(in_float.onnx)
    found = in_float.evaluated(tmp_path / "float", "own.targets:interpreter")
    assert found.delivered == found.subject("own.targets:interpreter")


def _ending_in_float(onnx_file: bytes) -> bytes:
    model = onnx.load_from_string(onnx_file)
    made_by = {node.output[0]: node for node in model.graph.node}
    back = made_by[model.graph.output[0].name]
    onto = made_by[back.input[0]]
    model.graph.output[0].name = onto.input[0]
    for node in (back, onto):
        model.graph.node.remove(node)
    return bytes(model.SerializeToString())


def test_a_target_without_bare_graphs_says_so(made: Made) -> None:
    with pytest.raises(NotMeasured, match="so the operator is not known"):
        TARGETS.resolve("own.targets:unreachable").run_integers(lower(made.onnx), np.zeros((1, 1, 8, 8), np.int8))
