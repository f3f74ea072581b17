"""What a run was asked, section by section, also where some of it is wrong."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pocketpipe.budget import Budget
from pocketpipe.network import NetworkChoice
from pocketpipe.plan import MethodChoice
from pocketpipe.search.settings import SearchSettings
from pocketpipe.targets.settings import CompileSettings
from pocketpipe.task import TaskChoice
from pocketpipe.training.distilling import Distillation, FurtherTeacher
from pocketpipe.training.recipe import FinetuneRecipe, Recipe, SparsifyRecipe, TeacherRecipe, TrainerSettings

S = TypeVar("S")


@dataclass(frozen=True)
class Request:
    """What was asked, section by section: one that is wrong in itself is None, the others are judged all the same."""

    task: TaskChoice | None
    network: NetworkChoice | None
    budget: Budget | None
    search: SearchSettings | None
    teachers: tuple[tuple[str, FurtherTeacher], ...]
    """Teachers that recipes name, each with the section's name."""
    methods: tuple[MethodChoice, ...]
    targets: tuple[str, ...]
    compile: CompileSettings | None
    trainer: TrainerSettings | None
    recipes: tuple[tuple[str, Recipe], ...]
    """Those that are right in themselves, each with the section's name."""

    @classmethod
    def of(cls, parameters: dict[str, Any]) -> "Request":
        """The sections of parameters that may be wrong in any way."""
        return cls(
            task=_section(TaskChoice, parameters.get("task")),
            network=_section(NetworkChoice, parameters.get("network")),
            budget=_section(Budget, parameters.get("budget")),
            search=_section(SearchSettings, parameters.get("search")),
            teachers=tuple(_further_teachers(parameters)),
            methods=_section(tuple[MethodChoice, ...], parameters.get("methods")) or (),
            targets=_section(tuple[str, ...], parameters.get("targets")) or (),
            compile=_section(CompileSettings, parameters.get("compile")),
            trainer=_section(TrainerSettings, parameters.get("trainer")),
            recipes=tuple(_recipes(parameters)),
        )


def _section(kind: type[S], content: Any) -> S | None:
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError:
        return None


def _recipes(parameters: dict[str, Any]) -> Iterator[tuple[str, Recipe]]:
    kinds: dict[str, type[Recipe]] = {
        "teacher": TeacherRecipe,
        "sparsify": SparsifyRecipe,
        "finalists": Recipe,
        "finetune": FinetuneRecipe,
    }
    for name, kind in kinds.items():
        recipe = _section(kind, parameters.get(name))
        if recipe is not None:
            yield name, recipe


def _further_teachers(parameters: dict[str, Any]) -> Iterator[tuple[str, FurtherTeacher]]:
    for name, content in parameters.items():
        found = content.get("distillation") if isinstance(content, dict) else None
        distillation = _section(Distillation, found)
        for teacher in distillation.teachers if distillation is not None else ():
            yield name, teacher
