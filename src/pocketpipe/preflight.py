"""Everything that can be known to go wrong is said before any work, all of it together; but whether the network has a
form that can be compiled, which takes seconds to tell, once the rest is right."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketpipe import machine
from pocketpipe.budget import Budget
from pocketpipe.config import Config, read_config
from pocketpipe.doors import option_mistakes
from pocketpipe.errors import Mistakes, UserError, first_line
from pocketpipe.integer.graph import IntegerGraph
from pocketpipe.network import NETWORKS, NetworkChoice
from pocketpipe.plan import STEPS, Step, is_step, order_mistakes
from pocketpipe.profile import NetworkProfile
from pocketpipe.request import Request
from pocketpipe.search.feasibility import reach, refuse_impossible
from pocketpipe.targets.base import TARGETS, Target
from pocketpipe.task import TASKS, TaskChoice
from pocketpipe.training.distilling import FurtherTeacher
from pocketpipe.training.recipe import Recipe, TeacherRecipe, TrainerSettings

if TYPE_CHECKING:
    from torch import nn

    from pocketpipe.task import Task

GRAPH_BYTES = 250
"""Of an exported file for each layer and each tensor, more than any network of ours has: nodes, names, scales."""
FREE_MEGABYTES = 200
"""Room that the outputs of a small run take, MLflow's copies included."""


STAGES_WITH_THE_NETWORK = {"data", "teacher", "profile", "search"}
STAGES_WITH_TEACHERS = {"teacher", "sparsify", "search", "finetune"}


def checked_config(parameters: dict[str, Any]) -> Config:
    """The parameters as typed values. Raises Mistakes if a type, a key, a name, an option or a file is wrong.

    Then everything else that is wrong is listed with it, as far as it can be told, so that all is mended in one go.
    """
    lines: list[str] = []
    try:
        config = read_config(parameters)
    except Mistakes as mistakes:
        lines += mistakes.lines
    request = Request.of(parameters)
    lines += [*_task_mistakes(request), *_network_mistakes(request), *_other_mistakes(request)]
    if lines:
        raise Mistakes((*lines, *_infeasible(request, {"compile", *STAGES_WITH_THE_NETWORK, *STAGES_WITH_TEACHERS})))
    return config


def check_feasible(config: Config, stages: set[str]) -> None:
    """Data, weights, budget, compilers, room on disk: what `stages` will need. Raises Mistakes."""
    request = Request.of(config.model_dump())
    if lines := list(_infeasible(request, stages)) or list(_not_to_be_compiled(request, stages)):
        raise Mistakes(lines)


def _task_mistakes(request: Request) -> list[str]:
    if request.task is None:
        return []
    name, options = request.task.name, request.task.options
    unknown = list(_said("task.name", partial(TASKS.resolve, name)))
    return unknown or option_mistakes(TASKS.resolve(name), options, where="task.options")


def _network_mistakes(request: Request) -> list[str]:
    if request.network is None:
        return []
    name, options = request.network.name, request.network.options
    unknown = list(_said("network.name", partial(NETWORKS.resolve, name)))
    wrong = unknown or option_mistakes(NETWORKS.resolve(name), options, where="network.options")
    return [*wrong, *_weights_missing(request.network, "network.weights")]


def _teacher_mistakes(section: str, teacher: FurtherTeacher) -> list[str]:
    where = f"{section}.distillation.teachers"
    unknown = list(_said(where, partial(NETWORKS.resolve, teacher.name)))
    wrong = unknown or option_mistakes(NETWORKS.resolve(teacher.name), teacher.options, where=where)
    return [*wrong, *_weights_missing(teacher, where)]


def _other_mistakes(request: Request) -> Iterator[str]:
    for method in request.methods:
        known = list(_said("methods", partial(STEPS.resolve, method.name)))
        yield from known or _said("", method.step)
    known_methods = [m for m in request.methods if not list(_said("", partial(STEPS.resolve, m.name)))]
    steps = [step for method in known_methods if is_step(step := STEPS.resolve(method.name))]
    yield from order_mistakes(steps, where="methods")
    made = [method.step() for method in known_methods if not list(_said("", method.step))]
    for position, step_made in enumerate(made):
        reasons = (step_made.refused_with(earlier) for earlier in made[:position])
        yield from (f"methods: {reason}" for reason in reasons if reason is not None)
    for name in request.targets:
        unknown = list(_said("targets", partial(_target, name)))
        yield from unknown or _without_integers(name, steps)
    if request.compile is not None:
        yield from request.compile.mistakes(list(map(TARGETS.resolve, _known_targets(request))), where="compile")
    yield from _targets_of_no_concern(request)
    for section, teacher in request.teachers:
        yield from _teacher_mistakes(section, teacher)
    for section, recipe in request.recipes:
        if section == "teacher" and recipe.distillation is not None and not recipe.distillation.teachers:
            yield "teacher.distillation: there is nobody to learn from yet; name teachers, or set distillation to null"
        uneven = None if request.trainer is None else recipe.uneven(request.trainer)
        if uneven is not None:
            yield f"{section}.{uneven}"
    if request.search is not None:
        yield from request.search.mistakes(where="search")


def _target(name: str) -> Target:
    """Raises UserError for a name that stands for none, or for its class."""
    found = TARGETS.resolve(name)
    if not isinstance(found, Target):
        raise UserError(f"{name} is no target; name an instance of yours: `board = Board()`")
    return found


def _without_integers(target: str, steps: list[type[Step]]) -> Iterator[str]:
    if TARGETS.resolve(target).integer_only and not any(step.brings_integers for step in steps):
        yield f"targets: {target} needs integers: add quantization to methods"


def _targets_of_no_concern(request: Request) -> Iterator[str]:
    """A line for each target that the budget gives something and that nothing is compiled for."""
    for term, by_target in (request.budget.by_target() if request.budget is not None else {}).items():
        for name in by_target:
            if name not in request.targets:
                yield (
                    f"budget.{term}.{name}: nothing is delivered for that target (targets: "
                    f"{', '.join(request.targets)}); add it to targets, or take it out of the budget"
                )


def _infeasible(request: Request, stages: set[str]) -> Iterator[str]:
    """What cannot be had here. Whatever was refused for its name or form already is passed over."""
    yield from _no_room(machine.output_root())
    if stages & STAGES_WITH_TEACHERS and request.trainer is not None:
        yield from _said("", partial(_check_trainer, request.trainer))
    if "compile" in stages:
        for name in _known_targets(request):
            yield from _said(f"targets: {name}", TARGETS.resolve(name).check)
    if request.task is None or _task_mistakes(request):
        return
    no_data = list(_said("", partial(_check_data, request.task)))
    if not no_data:
        yield from _said("", partial(_check_judged, request.task, request.budget))
    if stages & STAGES_WITH_THE_NETWORK:
        yield from no_data
        if not no_data and request.network is not None and not _network_mistakes(request):
            yield from _said("", partial(_check_network, request.task, request.network, request, stages))
    if stages & STAGES_WITH_TEACHERS and not no_data:
        for section, teacher in request.teachers:
            if not _teacher_mistakes(section, teacher):
                yield from _said(f"{section}.distillation.teachers", partial(_check_teacher, request.task, teacher))


def _not_to_be_compiled(request: Request, stages: set[str]) -> Iterator[str]:
    """Whether the network has a form that targets take: it is exported for that, so only once nothing else is wrong."""
    if not ("compile" in stages and stages & STAGES_WITH_THE_NETWORK):
        return
    if request.task is not None and request.network is not None:
        yield from _check_integers(request.task, request.network, request)
        yield from _check_export(request.task, request.network, request)


def _check_data(choice: TaskChoice) -> None:
    try:
        task = choice.build(machine.data_root())
        task.source_digest()
    except OSError as error:  # of a task of the user's
        raise UserError(f"task {choice.name!r}: its data cannot be read ({first_line(error)})") from error
    scale, mean, std = task.preprocessing.scale, task.preprocessing.mean, task.preprocessing.std
    for name, numbers in (("scale", (scale,)), ("mean", mean), ("std", std)):
        if not all(map(isfinite, numbers)) or (name != "mean" and 0.0 in numbers):
            given = ", ".join(f"{number:g}" for number in numbers)
            raise UserError(
                f"task {choice.name!r}: preprocessing.{name} is {given}, so that (stored * scale - mean) / std is no "
                "number, or the same for all; give finite numbers, and none of 0 but as mean"
            )
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) not in (1, task.input_shape[0]):
            raise UserError(
                f"task {choice.name!r}: preprocessing.{name} has {len(numbers)} numbers, axis 0 of an example "
                f"{task.input_shape} has {task.input_shape[0]}; give one for each, or one for all (normalize along "
                "other axes when you read the examples)"
            )
    if choice.holdout is not None and choice.holdout not in task.holdouts:
        allowed = ", ".join(("null", *task.holdouts))
        hint = "" if task.holdouts else ", or let its load() return a hold-out (docs/your-own.md, A task)"
        raise UserError(f"task.holdout: {choice.holdout!r} is not known to task {choice.name!r}; use {allowed}{hint}")


def _check_judged(choice: TaskChoice, budget: Budget | None) -> None:
    """Whether what the budget says of the metric is within its span."""
    task = choice.build(machine.data_root())
    if budget is None or task.metric_span is None:
        return
    of_the_metric = f"{task.metric_name} goes from 0 to {task.metric_span:g}; one point is 0.01"
    drop, least = budget.accuracy_drop, budget.minimum_metric
    if drop is not None and drop >= task.metric_span:
        raise UserError(f"budget.accuracy_drop: {drop:g} is no loss to ask for, {of_the_metric}")
    if least is not None and task.higher_is_better and least > task.metric_span:
        raise UserError(f"budget.minimum_metric: {least:g} cannot be reached, {of_the_metric}")


def _check_network(task_choice: TaskChoice, network_choice: NetworkChoice, request: Request, stages: set[str]) -> None:
    """Build the network, load given weights, trace it and hold the budget against what is reachable."""
    from pocketpipe.compression.tracing import profile_of
    from pocketpipe.networks.weights import with_weights_of
    from pocketpipe.training.answers import answer_shape

    task = task_choice.build(machine.data_root())
    network = network_choice.fresh()
    weights = network_choice.weights_path(machine.data_root())
    if weights is not None:
        network = with_weights_of(weights, network, task)
    built = network.build(task)
    profile = profile_of(built, task.input_shape)
    if "compile" in stages:
        _refuse_recurrent_modules(network_choice.name, profile, request)
    answer = answer_shape(built, task.input_shape) if stages & STAGES_WITH_TEACHERS else None
    wrong = (_recipe_mistakes(section, recipe, built, task, answer) for section, recipe in request.recipes)
    lines = list(chain.from_iterable(wrong))
    if request.budget is not None and request.methods and not list(_other_mistakes(request)):
        methods = [method.step() for method in request.methods]
        final = weights is not None and _trains_nothing_before_the_search(request)
        lines += _said("", partial(_check_budget, request.budget, methods, profile, built, task, final=final))
    if lines:
        raise Mistakes(lines)


def _trains_nothing_before_the_search(request: Request) -> bool:
    """Whether weights that are given are those that the search meets."""
    return not any(
        section == "sparsify" or (isinstance(recipe, TeacherRecipe) and recipe.given_weights == "start")
        for section, recipe in request.recipes
    )


def _check_budget(
    budget: Budget, methods: list[Step], profile: NetworkProfile, network: nn.Module, task: Task, *, final: bool
) -> None:
    """Hold it against what is reachable; `final`: the network's weights are those that the search meets.

    Where these pack to less (zeros, few values), that is what `compression` counts from.
    """
    from pocketpipe.exporting.onnx import export_onnx
    from pocketpipe.exporting.packing import packed

    packs = final and budget.compression is not None
    if packs or not _reaches_with_room(profile, methods, budget):
        onnx = export_onnx(network, task.input_shape)
        smaller = packed(onnx)
        whole = profile.in_file_of(len(onnx), smaller.overhead)
        refuse_impossible(whole.packed_to(len(smaller.data)) if packs else whole, methods, budget)


def _recipe_mistakes(
    section: str, recipe: Recipe, network: nn.Module, task: Task, answer: tuple[int, ...] | None
) -> Iterator[str]:
    """What does not suit this network; `answer`: the shape of its answer to an example, None if nobody learns."""
    if recipe.auxiliary is not None and answer is not None:
        from pocketpipe.training.auxiliary import points_of

        points = partial(points_of, network, task.input_shape, answer, recipe.auxiliary)
        yield from (f"{section}.{line}" for line in _said("", points))
    if recipe.distillation is not None and answer is not None:
        check = partial(recipe.distillation.check, answer, len(task.labels))
        yield from (f"{section}.{line}" for line in _said("", check))
    if recipe.progressive_resizing is not None:
        resizing = partial(recipe.progressive_resizing.check, network, task.input_shape)
        yield from (f"{section}.{line}" for line in _said("", resizing))
    if recipe.mixing is not None:
        yield from (f"{section}.{line}" for line in _said("", partial(recipe.mixing.check, task.input_shape)))


def _reaches_with_room(profile: NetworkProfile, methods: list[Step], budget: Budget) -> bool:
    """Whether the budget is reached even if a file's graph takes more than any that we know: its size is not known
    before the network is exported, which takes seconds."""
    most = GRAPH_BYTES * (len(profile.layers) + len(profile.buffers))
    return reach(profile.model_copy(update={"file_overhead": most}), methods, budget).feasible


def _known_targets(request: Request) -> list[str]:
    """Names of targets that there are; the others are told where names are."""
    return [name for name in request.targets if not list(_said("", partial(_target, name)))]


def _refuse_recurrent_modules(name: str, profile: NetworkProfile, request: Request) -> None:
    """Before a budget is held against layers that keep 32 bits: no target of ours has torch's recurrent operators."""
    found = next((layer for layer in profile.layers if layer.operator in ("lstm", "gru", "rnn_tanh", "rnn_relu")), None)
    without = [target for target in _known_targets(request) if not TARGETS.resolve(target).takes_recurrent]
    if found is not None and without:
        raise UserError(
            f"network {name!r}: {found.name} belongs to a recurrent module of torch's own, which cannot be compiled "
            f"for {', '.join(without)}; let your factory return pocketpipe.networks.unrolling.unrolled(network) "
            "(docs/your-own.md, a network)"
        )


def _check_integers(task_choice: TaskChoice, network_choice: NetworkChoice, request: Request) -> Iterator[str]:
    """Whether the quantized network has an integer form, where a target computes in integers.

    Operators do not depend on what training and calibration find: the file is made without them, in seconds.
    """
    from pocketpipe.exporting.onnx import export_onnx
    from pocketpipe.integer.lowering import lower

    quantization = next((step for method in request.methods if (step := method.step()).brings_integers), None)
    lowering = [name for name in request.targets if TARGETS.resolve(name).lowers]
    if quantization is None or not lowering:
        return
    task = task_choice.build(machine.data_root())
    quantized: list[Any] = []
    graphs: list[IntegerGraph] = []

    def applied() -> None:
        quantized.append(quantization.apply(network_choice.fresh().build(task), task))

    def lowered() -> None:
        graphs.extend(lower(export_onnx(each.eval(), task.input_shape)) for each in quantized)

    yield from _said("methods", applied)
    yield from _said(f"targets: {', '.join(lowering)}", lowered)
    for graph in graphs:
        for name in lowering:
            yield from _said(f"targets: {name}", partial(TARGETS.resolve(name).check_integers, graph))


def _check_export(task_choice: TaskChoice, network_choice: NetworkChoice, request: Request) -> Iterator[str]:
    """Whether a network has an ONNX form, and one that the targets know. Ours have for ours, tests say."""
    users = any(":" in name for name in (network_choice.name, *request.targets))
    if not users or any(method.step().brings_integers for method in request.methods):
        return  # quantized, it is exported by `_check_integers`
    from pocketpipe.exporting.onnx import export_onnx

    task = task_choice.build(machine.data_root())
    network = network_choice.fresh().build(task)
    made: list[bytes] = []
    yield from _said(
        f"network.name: {network_choice.name}", lambda: made.append(export_onnx(network, task.input_shape))
    )
    for onnx in made:
        for name in request.targets:
            where = f"network.name: {network_choice.name}: targets: {name}"
            yield from _said(where, partial(TARGETS.resolve(name).check_floats, onnx))


def _check_trainer(settings: TrainerSettings) -> None:
    from pocketpipe.training.device import accelerator

    if settings.nodes == 1:  # the others, which train, may have GPUs where this one has none
        accelerator(settings)


def _check_teacher(task_choice: TaskChoice, teacher: FurtherTeacher) -> None:
    """Build it and load its weights."""
    from pocketpipe.networks.weights import with_weights_of

    with_weights_of(teacher.path(machine.data_root()), teacher.fresh(), task_choice.build(machine.data_root()))


def _weights_missing(network: NetworkChoice, where: str) -> list[str]:
    weights = network.weights_path(machine.data_root())
    if weights is None or weights.is_file():
        return []
    return [
        f"{where}: no file {str(network.weights)!r} under the data root {machine.data_root()} "
        "(set POCKETPIPE_DATA, or give an absolute path)"
    ]


def _no_room(folder: Path) -> list[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free // 2**20
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # two runs at once
    except OSError as error:
        return [
            f"output folder {folder}: cannot be written ({error.strerror}); set POCKETPIPE_OUTPUT to another folder"
        ]
    if free < FREE_MEGABYTES:
        return [
            f"output folder {folder}: {free} MB free, {FREE_MEGABYTES} MB needed; free some (docs/scheduling.md, "
            "Room), or set POCKETPIPE_OUTPUT to another (with another registry, unless MLFLOW_TRACKING_URI names one)"
        ]
    return []


def _said(where: str, check: Callable[[], object]) -> Iterator[str]:
    """The lines of a UserError that `check` raises, with `where` in front."""
    try:
        check()
    except UserError as error:
        for line in str(error).splitlines():
            yield f"{where}: {line}" if where else line
