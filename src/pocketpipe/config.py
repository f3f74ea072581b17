"""The configuration, typed: the user's short part, and the part of each stage with its defaults."""

from collections.abc import Iterable, Iterator
from math import isfinite
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from pocketpipe.budget import Budget
from pocketpipe.doors import Value, describe_validation
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.evaluation import EvaluateSettings
from pocketpipe.lineage.fingerprint import fingerprint
from pocketpipe.network import NetworkChoice
from pocketpipe.plan import STEPS, MethodChoice
from pocketpipe.search.settings import SearchSettings
from pocketpipe.targets.base import TARGETS
from pocketpipe.targets.settings import CompileSettings
from pocketpipe.task import TaskChoice
from pocketpipe.tracking.gates import GateSettings
from pocketpipe.training.distilling import FurtherTeacher
from pocketpipe.training.recipe import FinetuneRecipe, Recipe, SparsifyRecipe, TeacherRecipe, TrainerSettings

BY_TARGETS = "targets"
"""Of a method's `multiple`: as the targets' kernels want it."""
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Config(Value):
    """All parameters of a run, one field a section of `conf/<recipe>/parameters*.yml`."""

    task: TaskChoice
    network: NetworkChoice
    budget: Budget
    methods: Annotated[tuple[MethodChoice, ...], Field(min_length=1)]
    """Compression methods that the search may use, in the order in which they are carried out."""
    targets: Names
    seed: Annotated[int, Field(ge=0, strict=True)]
    """Strict, since nodes are given it as it is written: `1.0` or `true` would draw something else."""
    trainer: TrainerSettings
    teacher: TeacherRecipe
    sparsify: SparsifyRecipe | None = None
    """Training of the teacher before the search cuts it, with group_sparsity or auxiliary; null = none."""
    search: SearchSettings
    finalists: Recipe
    """The short fine-tuning after which the best trials are compared; apart from `finetune`, so that a change of
    that one does not search again."""
    finetune: FinetuneRecipe
    compile: CompileSettings = CompileSettings()
    evaluate: EvaluateSettings
    promote: GateSettings

    def further_teachers(self, sections: Iterable[str]) -> tuple[FurtherTeacher, ...]:
        """The teachers that the recipes of these sections name beside the pipeline's own."""
        recipes = [getattr(self, name) for name in sections]
        distillations = [recipe.distillation for recipe in recipes if isinstance(recipe, Recipe)]
        return tuple(teacher for each in distillations if each is not None for teacher in each.teachers)

    @property
    def registered_name(self) -> str:
        """Name of this job's model in the registry: `promote.model`, or one for each task and network.

        Options make another task or network of it (two folders of images), so they are part of the default name.
        """
        if self.promote.model is not None:
            return self.promote.model
        name = f"{self.task.name}-{self.network.name}".replace(":", ".").replace("/", ".")
        sections = self.model_dump(mode="json", include={"task", "network"})
        options = {name: section["options"] for name, section in sections.items()}
        return f"{name}-{fingerprint(**options)[:6]}" if any(options.values()) else name


def read_config(parameters: dict[str, Any]) -> Config:
    """The parameters as typed values. Raises Mistakes: all of them, each with key path, value and what is allowed."""
    try:
        config = Config.model_validate(parameters)
    except ValidationError as error:
        raise Mistakes(_with_allowed_keys(error)) from error
    if endless := list(_not_finite(config.model_dump(mode="json"), "")):
        raise Mistakes([f"{where}: it must be a finite number" for where in endless])
    return config


def _not_finite(value: Any, where: str) -> Iterator[str]:
    """Key paths of numbers that no result can be named by: infinite ones, and nan."""
    if isinstance(value, float) and not isfinite(value):
        yield where
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{where}[{index}]")


def with_multiples(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters with a method's `multiple: targets` as the number that it stands for.

    That is the most channels that one of the targets computes at once. As a number, so that the search depends on it
    alone and another target does not search again. Where something is wrong all stays as it is: `read_config` tells it.
    """
    try:
        methods = MethodChoice.all_of(parameters["methods"])
        if not any(method.options.get("multiple") == BY_TARGETS for method in methods):
            return parameters
        integers = any(STEPS.resolve(method.name).brings_integers for method in methods)
        most = max(TARGETS.resolve(target).channels_at_once(integers=integers) for target in parameters["targets"])
    except (AttributeError, KeyError, TypeError, ValueError, UserError):  # a ValidationError is a ValueError
        return parameters
    chosen = [
        {
            method.name: {
                key: most if (key, value) == ("multiple", BY_TARGETS) else value
                for key, value in method.options.items()
            }
        }
        for method in methods
    ]
    return parameters | {"methods": chosen}


def _with_allowed_keys(error: ValidationError) -> list[str]:
    """Lines of the error; an unknown key is answered with the keys of its own section."""
    lines: list[str] = []
    for problem in error.errors():
        path, sections = _sections_at(problem["loc"])
        allowed = tuple(dict.fromkeys(name for section in sections for name in section.model_fields))
        lines += describe_validation(_alone(problem, path), where="", allowed=allowed)
    return lines


def _alone(problem: ErrorDetails, path: tuple[int | str, ...]) -> ValidationError:
    """The problem as an error of its own, at `path`."""
    placed = InitErrorDetails(type=problem["type"], loc=path, input=problem["input"], ctx=problem.get("ctx", {}))
    try:
        return ValidationError.from_exception_data("", [placed])
    except KeyError:  # a kind that pydantic has for itself alone (of a path)
        placed["type"] = PydanticCustomError("value_error", "{said}", {"said": problem["msg"]})
        return ValidationError.from_exception_data("", [placed])


def _sections_at(place: tuple[int | str, ...]) -> tuple[tuple[int | str, ...], list[type[BaseModel]]]:
    """(path as a user writes it, the models that its last part may belong to).

    Where one of several kinds is chosen by a tag, pydantic puts the tag into the place.
    """
    path: list[int | str] = []
    sections: list[type[BaseModel]] = [Config]
    for part in place[:-1]:
        chosen = [section for section in sections if len(sections) > 1 and part in _tags(section)]
        if chosen:
            sections = chosen
            continue
        path.append(part)
        if isinstance(part, str):
            fields = [section.model_fields[part] for section in sections if part in section.model_fields]
            sections = [model for field in fields for model in _models_in(field.annotation)]
    return (*path, place[-1]), sections


def _tags(section: type[BaseModel]) -> set[Any]:
    annotations = [field.annotation for field in section.model_fields.values()]
    return {tag for each in annotations if get_origin(each) is Literal for tag in get_args(each)}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
