"""CompressionPlan: an ordered list of steps. Can be written by hand, diffed, logged, replayed."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import ValidationError, model_validator

from pocketpipe.budget import Limits
from pocketpipe.doors import Door, Value, describe_validation
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.profile import NetworkProfile

if TYPE_CHECKING:
    from torch import nn

    from pocketpipe.task import Split, Task


class Step(Value):
    """One compression method with its parameters. Its module owns it; nothing else knows what is inside.

    A step may leave choices open (which channels, by a criterion). `pin` settles them by looking at the
    weights, after which `apply` depends on nothing but the step itself and can be replayed on a fresh network.
    What data tells the new network (statistics, scales, least-squares weights) `calibrate` sets: weights hold it.
    """

    kind: ClassVar[str]
    """The tag in a plan's JSON: the name it is registered under, or `package.module:Class`."""
    refused_after: ClassVar[Mapping[str, str]] = {}
    """Kinds of steps that must not come earlier in a plan, each with the reason."""
    refused_before: ClassVar[Mapping[str, str]] = {}
    """Kinds of steps that must not come later, each with the reason: ours do not know a step of one's own."""
    projected: ClassVar[frozenset[str]] = frozenset()
    """Fields that projection may change though the user has set them."""
    left_to_search: ClassVar[frozenset[str]] = frozenset()
    """Fields that search fills in whatever they say: among the options of a method they are refused."""
    brings_integers: ClassVar[bool] = False
    """Whether the tensors between layers are integers after it: what targets without floating point need."""

    @abstractmethod
    def space(self, profile: NetworkProfile) -> dict[str, dict[str, Any]]:
        """What search may vary of this step, in NNI's form: `{"name": {"_type": "uniform", "_value": [0.1, 1.0]}}`.

        A key that is a field's name stands for that field: search leaves it alone where the user has set it. Of
        names to choose from the first is that of the uniform, the smallest and the largest plan.
        """

    @abstractmethod
    def proposed(self, parameters: Mapping[str, Any], profile: NetworkProfile) -> Self:
        """This step with a tuner's proposal (keys of `space`) in what it leaves open, before projection.

        Keys of layers or groups that an earlier step took away are not looked at.
        """

    def informed(
        self, network: nn.Module, task: Task, data: Split, profile: NetworkProfile, limits: Limits
    ) -> Sequence[Mapping[str, Any]]:
        """Points of `space` that weights and data suggest, on or near `limits`; search tries them first. Default: none.

        Raises UserError if weights and data say nothing within the limits.
        """
        return ()

    @abstractmethod
    def project(self, profile: NetworkProfile, limits: Limits) -> Self:
        """The nearest step whose predicted cost keeps `limits`, as close under them as it can. Pure.

        Raises UserError if no setting of this step keeps them.
        """

    @abstractmethod
    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        """The profile of the network after this step."""

    @abstractmethod
    def pin(self, network: nn.Module, task: Task, data: Split) -> Self:
        """This step with every open choice settled from the weights of `network` (and `data`, if it asks)."""

    @abstractmethod
    def apply(self, network: nn.Module, task: Task) -> nn.Module:
        """A new network with this (pinned) step carried out, on the device of `network`, which is not changed."""

    def calibrate(self, network: nn.Module, before: nn.Module, task: Task, data: Split) -> None:
        """Set what `data` tells `network`, which `apply` just made of `before`; it is changed in place.

        Not called where weights are loaded, so it must leave the structure as it is. Default: nothing to set.
        """

    def refused_with(self, earlier: Step) -> str | None:
        """Why it makes no sense after `earlier`, with what the user has set of both; None if it does. Default: None."""
        return None

    def caveats(self, network: nn.Module, task: Task) -> Sequence[str]:
        """A line for each thing that a user should know of this step on this network before any work. Default: none."""
        return ()

    def asks_for(self, other: Step) -> bool:
        """Whether `other`, a step of a finished plan, has what is said here; what is open may be anything there."""
        said = self.model_fields_set - self.projected
        same = (getattr(other, name) == getattr(self, name) for name in said)
        return other.kind == self.kind and all(same)

    def reopened(self, profile: NetworkProfile) -> Step:
        """What its parts lead to: this step, with those of its choices open that they make anew. Default: none."""
        return self

    def in_portions(self, profile: NetworkProfile, count: int) -> tuple[Step, ...]:
        """Steps that lead to this one in `count` portions, to be trained in between. Default: all at once."""
        return (self,)

    def by_layers(self, profile: NetworkProfile, every: int) -> tuple[Step, ...]:
        """Steps that together do what this one does, each to the next `every` layers. Default: all at once."""
        return (self,)


class Costless(Step):
    """Base of steps that leave nothing to the search and cost what was there before: they change modules or weights."""

    def space(self, profile: NetworkProfile) -> dict[str, dict[str, Any]]:
        """Nothing."""
        return {}

    def proposed(self, parameters: Mapping[str, Any], profile: NetworkProfile) -> Self:
        """As it is."""
        return self

    def project(self, profile: NetworkProfile, limits: Limits) -> Self:
        """As it is; refused where others have not kept the limits."""
        if not limits.keeps(profile.cost()):
            raise UserError(f"{self.kind} saves nothing by itself: {limits.over(profile.cost())}")
        return self

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        """What it is given."""
        return profile

    def pin(self, network: nn.Module, task: Task, data: Split) -> Self:
        """As it is: no choice is open."""
        return self


STEPS: Door[type[Step]] = Door("method", room="pocketpipe.compression")


def is_step(named: object) -> bool:
    """Whether what a name stands for is a class of steps that says its kind."""
    return isinstance(named, type) and issubclass(named, Step) and hasattr(named, "kind")


class MethodChoice(Value):
    """One entry of the `methods` section: a name, or a name with values for fields of its step.

    >>> MethodChoice.model_validate("channels").options
    {}
    >>> str(MethodChoice.model_validate({"channels": {"multiple": 4}}))
    'channels(multiple=4)'
    """

    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_short_forms(cls, entry: Any) -> Any:
        if isinstance(entry, str):
            return {"name": entry}
        if isinstance(entry, dict) and len(entry) == 1 and "name" not in entry:
            ((name, options),) = entry.items()
            return {"name": name, "options": options or {}}
        return entry

    def __str__(self) -> str:
        return self.name + (f"({', '.join(f'{k}={v}' for k, v in self.options.items())})" if self.options else "")

    @classmethod
    def all_of(cls, section: Sequence[Any]) -> tuple[MethodChoice, ...]:
        """The `methods` section as it is written in YAML: names, and names with options."""
        return tuple(cls.model_validate(entry) for entry in section)

    def step(self) -> Step:
        """The step with these options and the rest open, for search to fill in. Raises UserError or Mistakes."""
        step_class = STEPS.resolve(self.name)
        if not (isinstance(step_class, type) and issubclass(step_class, Step)):
            raise UserError(f"methods.{self.name}: it is no class of steps; see docs/your-own.md")
        if missing := getattr(step_class, "__abstractmethods__", None):
            raise UserError(f"methods.{self.name}: the step lacks {', '.join(sorted(missing))}; see docs/your-own.md")
        if ":" in self.name and getattr(step_class, "kind", None) != self.name:
            raise UserError(
                f'methods.{self.name}: a stored plan could not find it; write `kind: ClassVar[str] = "{self.name}"`'
            )
        if filled := sorted(step_class.left_to_search & self.options.keys()):
            raise Mistakes([f"methods.{self.name}.{name}: the search fills it in; leave it out" for name in filled])
        try:
            return step_class.model_validate(self.options)
        except ValidationError as error:
            where = f"methods.{self.name}"
            lines = describe_validation(error, where=where, allowed=tuple(step_class.model_fields))
            raise Mistakes(lines) from error


@dataclass(frozen=True)
class CompressionPlan:
    """Ordered steps; a tagged union in JSON, open for steps that a user brings.

    >>> CompressionPlan.from_json('[]')
    CompressionPlan(steps=())
    >>> CompressionPlan.from_json('[{"kind": "chanels"}]')  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pocketpipe.errors.UserError: method 'chanels' is unknown; did you mean 'channels'? ...
    """

    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        """Raise Mistakes for an order that makes no sense."""
        if mistakes := order_mistakes([type(step) for step in self.steps], where="plan"):
            raise Mistakes(mistakes)

    def to_json(self) -> str:
        """Canonical JSON: equal plans give equal text."""
        steps = [{"kind": step.kind, **step.model_dump(mode="json")} for step in self.steps]
        return json.dumps(steps, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CompressionPlan:
        """Read a plan. Raises UserError for what is none and unknown kinds, Mistakes for a step's wrong parameters."""
        try:
            entries = json.loads(text)
        except ValueError as error:
            raise UserError(f"a plan is a list of steps in JSON; this is no JSON: {error}") from None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError('a plan is a list of steps in JSON: [{"kind": "channels", ...}, ...]')
        return cls(tuple(_read_step(index, entry) for index, entry in enumerate(entries)))

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        """The profile of the network after all steps."""
        for step in self.steps:
            profile = step.predict(profile)
        return profile

    def carry_out(self, network: nn.Module, task: Task, data: Split) -> tuple[nn.Module, CompressionPlan]:
        """(new network, the plan as pinned on the way). `network` is not changed.

        Raises UserError for parameters that are no finite float32 numbers.
        """
        _refuse_unfit(network)
        pinned: list[Step] = []
        for step in self.steps:
            pinned.append(step.pin(network, task, data))
            before, network = network, pinned[-1].apply(network, task)
            pinned[-1].calibrate(network, before, task, data)
        return network, CompressionPlan(tuple(pinned))


def _refuse_unfit(network: nn.Module) -> None:
    import torch

    for name, parameter in network.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise UserError(
                f"network: {name} is {parameter.dtype}; steps compute in float32: call network.float() before"
            )
        if not torch.isfinite(parameter).all():
            raise UserError(f"network: {name} holds NaN or infinity; its weights are damaged, or its training diverged")


def order_mistakes(steps: Sequence[type[Step]], *, where: str) -> list[str]:
    """A line for each step that comes after one that it must not follow (empty if the order makes sense)."""
    reasons = (
        (step, earlier, step.refused_after.get(earlier.kind, earlier.refused_before.get(step.kind)))
        for position, step in enumerate(steps)
        for earlier in steps[:position]
    )
    return [
        f"{where}: {step.kind} after {earlier.kind}: {reason}"
        for step, earlier, reason in reasons
        if reason is not None
    ]


def _read_step(index: int, entry: dict[str, Any]) -> Step:
    step_class = STEPS.resolve(str(entry.pop("kind", "")))
    try:
        return step_class.model_validate(entry)
    except ValidationError as error:
        where = f"plan[{index}] ({step_class.kind})"
        raise Mistakes(describe_validation(error, where=where, allowed=tuple(step_class.model_fields))) from error
