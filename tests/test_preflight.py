"""What is checked before any work: teachers that a recipe names, steps, targets, networks, what a task says."""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from compression.test_recurrent import Sequences
from own.tasks import Shapes
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.errors import Mistakes
from pocketpipe.network import NETWORKS
from pocketpipe.preflight import check_feasible, checked_config
from pocketpipe.targets.base import TARGETS
from pocketpipe.task import Preprocessing

BASE = Path(__file__).parents[1] / "conf" / "base"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETPIPE_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("POCKETPIPE_DATA", str(tmp_path))


def parameters(*teachers: dict[str, Any]) -> dict[str, Any]:
    """Those of conf/base, but with a network that takes no time to look at."""
    files = (BASE / "parameters.yml", BASE / "parameters_stages.yml")
    found = {key: value for file in files for key, value in yaml.safe_load(file.read_text()).items()}
    found |= {"network": {"name": "own.networks:tiny"}, "targets": ["x86_64"]}
    found["finetune"]["distillation"]["teachers"] = list(teachers)
    return found


def test_names_options_and_files_are_told_together() -> None:
    unknown = {"name": "resnet9", "weights": "none.safetensors"}
    wrong = {"name": "resnet8", "weights": "none.safetensors", "options": {"depth": 3}}
    with pytest.raises(Mistakes) as caught:
        checked_config(parameters(unknown, wrong))
    told = "\n".join(caught.value.lines)
    assert "finetune.distillation.teachers: network 'resnet9' is unknown" in told
    assert "finetune.distillation.teachers.depth: 3 is not an option" in told
    assert told.count("finetune.distillation.teachers: no file 'none.safetensors' under the data root") == 2


def test_weights_of_another_network_are_found_before_the_training(tmp_path: Path) -> None:
    teacher = {"name": "resnet8", "weights": "teacher.safetensors"}
    torch.manual_seed(0)
    save_file(NETWORKS.resolve("lenet")((1, 8, 8), 10).state_dict(), tmp_path / "teacher.safetensors")
    with pytest.raises(Mistakes, match=r"finetune.distillation.teachers: weights do not fit network 'resnet8'"):
        check_feasible(checked_config(parameters(teacher)), {"finetune"})
    save_file(NETWORKS.resolve("resnet8")((1, 8, 8), 10).state_dict(), tmp_path / "teacher.safetensors")
    check_feasible(checked_config(parameters(teacher)), {"finetune"})


class InGroups(nn.Module):
    """Has an operator that integers do not have."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.first(x).relu()).mean((2, 3)))


@NETWORKS.register("in groups, for a test")
def build(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return InGroups(outputs)


def test_an_operator_without_integer_form_is_found_before_any_training() -> None:
    asked = parameters() | {"methods": ["quantization"], "network": {"name": "in groups, for a test"}}
    checked = checked_config({**asked, "budget": {"macs": 10**9}})
    with pytest.raises(Mistakes) as caught:
        check_feasible(checked, {"search", "compile"})
    (line,) = caught.value.lines
    named = r"targets: x86_64: node '\d+' \(InstanceNormalization, behind '\w+'\): has no integer form; use Batch.*"
    assert re.fullmatch(named, line)
    check_feasible(checked, {"search"})


def test_values_without_weights_on_masks_that_close_are_refused_before_any_training() -> None:
    methods: list[Any] = ["sparsity", {"codebook": {"tuned": "centroids"}}]
    with pytest.raises(Mistakes, match="methods: codebook: tuned: centroids leaves weights as they are"):
        checked_config(parameters() | {"methods": methods})
    checked_config(parameters() | {"methods": [{"sparsity": {"schedule": "one_shot"}}, methods[1]]})
    checked_config(parameters() | {"methods": ["sparsity", "codebook"]})


def test_channels_after_groups_of_neighbours_that_are_final_are_refused() -> None:
    final = {"sparsity": {"pattern": "2:4", "schedule": "one_shot"}}
    with pytest.raises(Mistakes, match=r"methods: channels after sparsity 2:4: .*put channels first"):
        checked_config(parameters() | {"methods": [final, "channels"]})
    checked_config(parameters() | {"methods": [{"sparsity": {"pattern": "2:4"}}, "channels"]})
    checked_config(parameters() | {"methods": ["channels", final]})


def test_a_teacher_that_has_nobody_to_learn_from_is_told() -> None:
    asked = parameters()
    asked["teacher"]["distillation"] = {"weight": 0.9}
    with pytest.raises(Mistakes, match=r"teacher.distillation: there is nobody to learn from"):
        checked_config(asked)


@pytest.mark.parametrize(("compression", "refused"), [(60.0, False), (70.0, True)])
def test_bytes_that_only_the_graph_leaves_out_of_reach_are_told_before_the_training(
    compression: float, refused: bool
) -> None:
    """Weights alone could be 90 times smaller; with the graph around them the file cannot be 66 times."""
    asked = parameters() | {"network": {"name": "resnet8"}, "budget": {"compression": compression}}
    line = r"budget\.compression: 70x asked, 1\.\.65\.\dx reachable"
    with pytest.raises(Mistakes, match=line) if refused else nullcontext():
        check_feasible(checked_config(asked), {"search"})


@pytest.mark.parametrize(("teacher", "refused"), [({}, True), ({"given_weights": "start"}, False)])
def test_weights_that_are_mostly_zeros_leave_less_to_compress_and_that_is_told(
    tmp_path: Path, teacher: dict[str, Any], refused: bool
) -> None:
    """Their packed file is what is to be 20 times smaller; trained on, they would be zeros no more."""
    torch.manual_seed(0)
    state = NETWORKS.resolve("resnet8")((1, 8, 8), 10).state_dict()
    for value in state.values():
        if value.dim() > 1:
            value *= torch.rand(value.shape) < 0.05
    save_file(state, tmp_path / "zeros.safetensors")
    asked = parameters() | {
        "network": {"name": "resnet8", "weights": "zeros.safetensors"}, "budget": {"compression": 20.0},
    }  # fmt: skip
    asked["teacher"] |= teacher
    line = r"budget\.compression: 20x asked, 1\.\.\d\.\d+x reachable"
    with pytest.raises(Mistakes, match=line) if refused else nullcontext():
        check_feasible(checked_config(asked), {"search"})


def test_recipes_and_a_budget_that_do_not_suit_a_network_are_told_together() -> None:
    asked = parameters() | {"network": {"name": "gru"}, "task": {"name": "digit_rows"}, "methods": ["channels"]}
    asked |= {"budget": {"speedup": 10_000.0}}
    asked["finetune"] |= {"progressive_resizing": {"scale": 0.5}, "mixing": {"kind": "cutmix"}}
    with pytest.raises(Mistakes) as caught:
        check_feasible(checked_config(asked), {"teacher"})
    assert [line.split(":")[0] for line in caught.value.lines] == [
        "finetune.progressive_resizing",
        "finetune.mixing",
        "budget.speedup",
    ]


class Patches(nn.Module):
    """Moves five axes of which no two stay side by side."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(64, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.reshape(-1, 2, 2, 2, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 64))


@NETWORKS.register("patches, for a test")
def build_patches(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Patches(outputs)


def test_what_the_c_kernels_do_not_move_is_found_before_any_training() -> None:
    asked = parameters() | {"methods": ["quantization"], "network": {"name": "patches, for a test"}}
    with pytest.raises(Mistakes) as caught:
        check_feasible(
            checked_config({**asked, "targets": ["x86_64", "fpga"], "budget": {"macs": 10**9}}), {"search", "compile"}
        )
    (line,) = caught.value.lines
    assert re.fullmatch(r"targets: fpga: operator '.*' \(Transpose\): 5 axes besides the batch; .*", line)


def test_targets_of_integers_want_a_method_that_brings_them() -> None:
    with pytest.raises(Mistakes, match="targets: fpga needs integers: add quantization to methods"):
        checked_config({**parameters(), "targets": ["fpga"], "methods": ["channels"]})


def test_a_budget_for_a_target_that_is_not_asked_for_is_a_mistake() -> None:
    asked = parameters()
    asked["budget"] |= {"ram_kb": {"cortex_m": 32}, "latency_ms": {"x86_64": 1}}
    line = (
        "budget.ram_kb.cortex_m: nothing is delivered for that target (targets: x86_64); "
        "add it to targets, or take it out of the budget"
    )
    with pytest.raises(Mistakes) as caught:
        checked_config(asked)
    assert line in caught.value.lines
    assert not any("latency_ms" in told for told in caught.value.lines)


def test_a_step_that_is_not_whole_is_told_what_it_lacks() -> None:
    with pytest.raises(Mistakes) as caught:
        checked_config({**parameters(), "methods": ["pocketpipe.plan:Step"]})
    (line,) = [line for line in caught.value.lines if "pocketpipe.plan:Step" in line]
    assert "the step lacks apply, pin, predict, project, proposed, space" in line


class Unnamed(QuantizationStep):
    """A user's step that says nothing of its kind."""


def no_step() -> None: ...


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (f"{__name__}:Unnamed", f'write `kind: ClassVar[str] = "{__name__}:Unnamed"`'),
        (f"{__name__}:no_step", "it is no class of steps"),
    ],
)
def test_a_step_that_a_stored_plan_could_not_find_is_told_before_any_work(name: str, told: str) -> None:
    with pytest.raises(Mistakes) as caught:
        checked_config({**parameters(), "methods": [name]})
    assert [told in line for line in caught.value.lines] == [True], caught.value.lines


def build_lstm(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Sequences(nn.LSTM, input_shape[-1], outputs)


def test_recurrent_modules_are_told_by_name_before_a_budget_is_looked_at() -> None:
    asked = parameters() | {"network": {"name": f"{__name__}:build_lstm"}, "task": {"name": "digit_rows"}}
    with pytest.raises(Mistakes) as caught:
        check_feasible(checked_config(asked), {"teacher", "compile"})
    (line,) = caught.value.lines
    told = "inside.weight_ih_l0 belongs to a recurrent module of torch's own, which cannot be compiled for x86_64"
    assert told in line
    assert "budget" not in line


@pytest.mark.parametrize(("target", "refused"), [("interpreter", False), ("pocket", True)])
def test_a_target_of_ones_own_says_whether_it_takes_recurrent_modules(target: str, refused: bool) -> None:
    asked = parameters() | {"network": {"name": f"{__name__}:build_lstm"}, "task": {"name": "digit_rows"}}
    asked |= {"targets": [f"own.targets:{target}"], "methods": ["sparsity"], "budget": {"compression": 1.2}}
    with pytest.raises(Mistakes, match=r"cannot be compiled for own.targets:pocket") if refused else nullcontext():
        check_feasible(checked_config(asked), {"teacher", "compile"})


def test_a_target_of_ones_own_says_what_it_cannot_compile_before_any_work() -> None:
    asked = parameters() | {"network": {"name": "resnet8"}, "methods": ["channels"], "budget": {"macs": 10**9}}
    asked |= {"targets": ["own.targets:interpreter", "own.targets:pocket"]}
    with pytest.raises(Mistakes, match=r"targets: own.targets:pocket: pocket cannot add"):
        check_feasible(checked_config(asked), {"teacher", "compile"})


class Miscounted(Shapes):
    """Has a mean for each row."""

    preprocessing = Preprocessing(mean=(0.5,) * 8)


def build_miscounted(data_root: Path) -> Shapes:
    return Miscounted(100)


def test_preprocessing_that_does_not_fit_an_example_is_told_before_any_work() -> None:
    asked = parameters() | {"task": {"name": f"{__name__}:build_miscounted"}}
    with pytest.raises(Mistakes, match=r"preprocessing.mean has 8 numbers, axis 0 of an example \(1, 8, 8\) has 1"):
        check_feasible(checked_config(asked), {"teacher"})


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"std": (0.0,)}, "preprocessing.std is 0,"),
        ({"mean": (float("nan"),)}, "preprocessing.mean is nan,"),
        ({"scale": float("inf")}, "preprocessing.scale is inf,"),
        ({"scale": 0.0}, "preprocessing.scale is 0,"),
    ],
)
def test_preprocessing_that_makes_no_numbers_is_told_before_any_work(
    numbers: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Miscounted, "preprocessing", Preprocessing(**numbers))
    asked = parameters() | {"task": {"name": f"{__name__}:build_miscounted"}}
    with pytest.raises(Mistakes, match=said):
        check_feasible(checked_config(asked), {"data"})


def test_threads_that_no_target_has_are_told_before_any_work() -> None:
    with pytest.raises(Mistakes) as caught:
        checked_config({**parameters(), "targets": ["fpga", "armv7"], "compile": {"threads": 2}})
    line = "compile.threads: 2, but fpga, armv7 run on one: set 1, or add a target that has threads"
    assert line in caught.value.lines


def test_threads_are_for_the_targets_that_have_them() -> None:
    compiling = checked_config({**parameters(), "targets": ["x86_64", "cortex_m"], "compile": {"threads": 2}}).compile
    assert [compiling.threads_of(TARGETS.resolve(name)) for name in ("x86_64", "cortex_m")] == [2, 1]


def test_a_training_that_cannot_be_had_is_told_before_any_work() -> None:
    asked = parameters() | {"trainer": {"devices": 3}}
    asked["finetune"] |= {"batch_size": 64}
    with pytest.raises(Mistakes, match=r"finetune.batch_size 64 cannot be shared evenly among 3 processes"):
        checked_config(asked)
    asked = parameters() | {"network": {"name": "gru"}, "task": {"name": "digit_rows"}, "methods": ["channels"]}
    asked["finetune"] |= {"progressive_resizing": {"scale": 0.5}}
    asked["finetune"] |= {"auxiliary": {"points": ["head"]}}
    with pytest.raises(Mistakes) as told:
        check_feasible(checked_config(asked), {"teacher"})
    assert "finetune.progressive_resizing: inputs of shape (8, 8) are no images" in str(told.value)
    assert "finetune.auxiliary.points: head: no module that makes maps" in str(told.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told_before_any_work() -> None:
    asked = parameters() | {"trainer": {"accelerator": "gpu"}}
    with pytest.raises(Mistakes, match=r"trainer.accelerator: 'gpu', but PyTorch sees no GPU here"):
        check_feasible(checked_config(asked), {"finetune"})
    of_others = parameters() | {"trainer": {"accelerator": "gpu", "nodes": 2}}
    check_feasible(checked_config(of_others), {"finetune"})


class Sorting(nn.Module):
    """Has an operator that no target of ours has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x).flatten(1)[:, :10]


def build_sorting(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 10, 8), Sorting())


def test_a_network_of_the_users_that_cannot_be_exported_is_told_before_any_work() -> None:
    asked = parameters() | {"network": {"name": f"{__name__}:build_sorting"}, "methods": ["channels"]}
    asked["budget"] = {"macs": 10**9}
    with pytest.raises(Mistakes, match=r"network.name: .*build_sorting"):
        check_feasible(checked_config(asked), {"teacher", "compile"})


def test_no_thread_at_all_is_refused() -> None:
    with pytest.raises(Mistakes, match=r"compile.threads: 0: .*greater than or equal to 1"):
        checked_config({**parameters(), "compile": {"threads": 0}})


def test_a_class_in_the_place_of_a_target_is_told() -> None:
    with pytest.raises(Mistakes, match=r"targets: own.targets:Careless is no target; name an instance of yours"):
        checked_config(parameters() | {"targets": ["own.targets:Careless"]})


@pytest.mark.parametrize(
    ("term", "line"),
    [
        ({"accuracy_drop": 2.0}, r"budget\.accuracy_drop: 2 is no loss to ask for, accuracy goes from 0 to 1"),
        ({"minimum_metric": 95.0}, r"budget\.minimum_metric: 95 cannot be reached, accuracy goes from 0 to 1"),
    ],
)
def test_what_only_the_verdicts_read_is_checked_where_only_they_are_made(term: dict[str, float], line: str) -> None:
    values = parameters()
    values["budget"] = {**values["budget"], **term}
    with pytest.raises(Mistakes, match=line):
        check_feasible(checked_config(values), {"evaluate"})
