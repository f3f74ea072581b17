"""From a budget and measurements to verdicts."""

import pytest

from own.tasks import Shapes
from pocketpipe.budget import Budget
from pocketpipe.cost import Cost
from pocketpipe.evaluation import Subject
from pocketpipe.pipelines.evaluate.verdicts import judge
from pocketpipe.verdict import Verdict, budget_kept

DENSE = Cost(macs=1000, parameters=100, file_bytes=4000, source="measured on teacher.onnx")
SLIM = Cost(macs=400, parameters=50, file_bytes=2100, source="measured on student.onnx")
ONNX = Subject(name="onnx", file="student.onnx", examples=100, metric=0.95, agreement=1.0, max_difference=0.0)
LIBRARY = ONNX.model_copy(update={"name": "x86_64", "file": "x86_64/model.so", "agreement": 0.9995})
ABSENT = Subject(name="aarch64", file="aarch64/model.so", not_measured="no QEMU; install qemu-user")


def verdicts(budget: Budget, *subjects: Subject, teacher: float = 0.96) -> dict[tuple[str, str], Verdict]:
    found = judge(budget, Shapes(10), (DENSE, SLIM), list(subjects), lambda count: teacher)
    return {(verdict.requirement, verdict.file): verdict for verdict in found}


@pytest.mark.parametrize(
    ("budget", "requirement", "status"),
    [
        (Budget(speedup=2.5), "speedup", "passed"),
        (Budget(speedup=2.51), "speedup", "failed"),
        (Budget(compression=1.9), "compression", "passed"),
        (Budget(compression=2.0), "compression", "failed"),
        (Budget(macs=400), "macs", "passed"),
        (Budget(macs=399), "macs", "failed"),
        (Budget(file_bytes=2100), "file_bytes", "passed"),
        (Budget(file_bytes=2099), "file_bytes", "failed"),
        (Budget(speedup=1, accuracy_drop=0.011), "accuracy_drop", "passed"),
        (Budget(speedup=1, accuracy_drop=0.009), "accuracy_drop", "failed"),
        (Budget(speedup=1, accuracy_drop=0.01), "accuracy_drop", "passed"),  # though 0.96 - 0.95 is a little more
        (Budget(speedup=1, minimum_metric=0.95), "minimum_metric", "passed"),
        (Budget(speedup=1, minimum_metric=0.951), "minimum_metric", "failed"),
    ],
)
def test_each_requirement_on_its_border(budget: Budget, requirement: str, status: str) -> None:
    verdict = verdicts(budget, ONNX)[requirement, "student.onnx"]
    assert verdict.status == status
    assert verdict.got


@pytest.mark.parametrize(
    ("budget", "metric", "asked", "got"),
    [
        (Budget(speedup=2.505), 0.95, ">= 2.505x fewer MACs", "2.500x"),
        (Budget(speedup=2.5004), 0.95, ">= 2.5004x fewer MACs", "2.500x"),
        (Budget(speedup=2.50000001), 0.95, ">= 2.50000001x fewer MACs", "2.500x"),
        (Budget(compression=1.9049), 0.95, ">= 1.9049x fewer bytes in transport", "1.9048x"),
        (Budget(speedup=1, accuracy_drop=0.01), 0.949996, "accuracy drop <= 0.0100", "+0.010004 (0.9600 -> 0.9500,"),
        (Budget(speedup=1, accuracy_drop=0.00333), 0.95666, "accuracy drop <= 0.00333", "+0.00334 (0.9600 -> 0.9567,"),
        (Budget(speedup=1, minimum_metric=0.95), 0.94996, "accuracy >= 0.9500", "0.94996"),
    ],
)
def test_what_failed_does_not_read_as_kept(budget: Budget, metric: float, asked: str, got: str) -> None:
    first, *others = verdicts(budget, ONNX.model_copy(update={"metric": metric})).values()
    failed = others[0] if others else first
    assert failed.status == "failed"
    assert failed.asked == asked
    assert failed.got.startswith(got)


def test_bytes_are_judged_on_the_file_in_transport_and_told_apart_from_those_unpacked() -> None:
    packed = {"file_bytes": 500, "resident_bytes": 2100, "transport_file": "student.packed.safetensors"}
    costs = (DENSE, SLIM.model_copy(update=packed))
    found = judge(Budget(speedup=2, compression=8, file_bytes=499), Shapes(10), costs, [ONNX], lambda count: 0.96)
    by_name = {verdict.requirement: verdict for verdict in found}
    assert by_name["speedup"].file == "student.onnx"
    assert by_name["speedup"].got == "2.500x"
    assert by_name["compression"].file == by_name["file_bytes"].file == "student.packed.safetensors"
    assert by_name["compression"].got == "8.000x (500 bytes in transport, 2,100 unpacked)"
    assert by_name["compression"].status == "passed"
    assert by_name["file_bytes"].status == "failed"


def test_every_delivered_file_is_judged_for_itself() -> None:
    worse = LIBRARY.model_copy(update={"metric": 0.90, "agreement": 0.93})
    found = verdicts(Budget(speedup=2, accuracy_drop=0.02), ONNX, worse)
    assert found["accuracy_drop", "student.onnx"].status == "passed"
    assert found["accuracy_drop", "x86_64/model.so"].status == "failed"
    assert found["same answers", "x86_64/model.so"].status == "failed"
    assert ("same answers", "student.onnx") not in found


def test_what_was_not_measured_says_how_to_get_it_and_fails_nothing() -> None:
    found = verdicts(Budget(speedup=2, accuracy_drop=0.02), ONNX, LIBRARY, ABSENT)
    absent = [verdict for (_, file), verdict in found.items() if file == "aarch64/model.so"]
    assert [verdict.status for verdict in absent] == ["not measured", "not measured"]
    assert all(verdict.reason == "no QEMU; install qemu-user" for verdict in absent)
    assert budget_kept(tuple(found.values()))


def test_the_teacher_is_measured_on_the_same_examples() -> None:
    few = LIBRARY.model_copy(update={"examples": 10, "metric": 0.9})
    asked: list[int] = []
    judge(Budget(speedup=1, accuracy_drop=0.1), Shapes(10), (DENSE, SLIM), [few], lambda n: asked.append(n) or 0.9)
    assert asked == [10]


def test_what_a_device_has_is_judged_on_what_was_delivered_for_it() -> None:
    board = Subject(name="cortex_m", file="cortex_m/model.elf", examples=10, metric=0.95, compared=10, differing=0,
                    flash_bytes=65_536, ram_bytes=32_769)  # fmt: skip
    library = LIBRARY.model_copy(update={"latency_ms": 0.31, "flash_bytes": 10**6, "ram_bytes": 10**6})
    budget = Budget(flash_kb={"cortex_m": 64}, ram_kb={"cortex_m": 32}, latency_ms={"x86_64": 0.3, "cortex_m": 9})
    found = verdicts(budget, ONNX, library, board)
    assert found["flash_kb", board.file].status == "passed"
    assert found["ram_kb", board.file].got == "32.001 kB (32,769 bytes)"
    assert found["ram_kb", board.file].status == "failed"
    assert found["latency_ms", library.file].status == "failed"
    untimed = found["latency_ms", board.file]
    assert untimed.status == "not measured"
    assert "measure it there" in str(untimed.reason)
    assert ("flash_kb", library.file) not in found, "the budget says nothing of this target's"


def test_large_figures_of_a_device_are_no_powers_of_ten() -> None:
    board = Subject(name="cortex_m", file="cortex_m/model.elf", examples=10, metric=0.95, compared=10, differing=0,
                    flash_bytes=16_777_217, ram_bytes=1)  # fmt: skip
    library = LIBRARY.model_copy(update={"latency_ms": 12345.6})
    found = verdicts(Budget(flash_kb={"cortex_m": 16384}, latency_ms={"x86_64": 1234567.5}), ONNX, library, board)
    assert found["flash_kb", board.file].asked == "<= 16384 kB"
    assert found["flash_kb", board.file].got == "16384.001 kB (16,777,217 bytes)"
    assert found["latency_ms", library.file].asked == "<= 1234567.5 ms at batch 1"
    assert found["latency_ms", library.file].got == "12345.6 ms"


def test_a_metric_that_misses_its_bound_by_a_floats_last_digit_keeps_it() -> None:
    subject = ONNX.model_copy(update={"metric": 0.1 + 0.2})

    class Errors(Shapes):
        higher_is_better = False

    found = judge(Budget(speedup=1, minimum_metric=0.3), Errors(10), (DENSE, SLIM), [subject], lambda count: 0.3)
    assert {each.requirement: each.status for each in found}["minimum_metric"] == "passed"


def test_integers_are_judged_by_the_reference_and_not_by_another_rounding() -> None:
    quantized = LIBRARY.model_copy(update={"agreement": 0.99, "compared": 80, "differing": 0})
    verdict = verdicts(Budget(speedup=2), quantized)["same integers", quantized.file]
    assert (verdict.status, verdict.got) == ("passed", "0 differ on 80 examples")


def test_an_error_rises_and_small_units_are_seen() -> None:
    class Errors(Shapes):
        higher_is_better = False

    subject = ONNX.model_copy(update={"metric": 3e-5})
    budget = Budget(speedup=1, accuracy_drop=1e-5, minimum_metric=2e-5)
    found = {each.requirement: each for each in judge(budget, Errors(10), (DENSE, SLIM), [subject], lambda count: 1e-5)}
    assert found["accuracy_drop"].asked == "accuracy rise <= 1e-05"
    assert found["accuracy_drop"].got.startswith("+2e-05 (1e-05 -> 3e-05")
    assert {each.status for name, each in found.items() if name != "speedup"} == {"failed"}
