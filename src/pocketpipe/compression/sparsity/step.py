"""The step: how dense each layer is left, by which protocol and pattern, at once or while training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pocketpipe.budget import Limits, farthest
from pocketpipe.compression.batchnorm import reestimate_on
from pocketpipe.compression.sparsity.mask import GradualMask, Mask
from pocketpipe.compression.sparsity.misfits import misfits
from pocketpipe.compression.sparsity.patterns import NOfM, Pattern, Unstructured, parse_n_of_m
from pocketpipe.compression.sparsity.projection import refuse_unreachable
from pocketpipe.compression.sparsity.protocols import BY_SHAPES, BY_WEIGHTS, Protocol, uniform
from pocketpipe.compression.sparsity.regression import refit
from pocketpipe.compression.sparsity.schedule import CubicSchedule
from pocketpipe.compression.tracing import profile_of
from pocketpipe.compression.weights import lay_on, said_of_several, weight_of
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.plan import STEPS, Step
from pocketpipe.profile import NetworkProfile, exact_share

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pocketpipe.task import Split, Task

SMALLEST_DENSITY = 0.01
"""The least share of weights that search and projection leave."""
FEW_LAYERS = 12
"""Up to so many layers the search also varies each layer's density."""

Density = Annotated[float, Field(gt=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


@STEPS.register("sparsity")
class SparsityStep(Step):
    """Keep a share `density` of the weights of all layers that are masked; the others are zero.

    >>> SparsityStep(density=0.1).protocol, SparsityStep(pattern="2:4").density
    ('uniform', 0.5)
    """

    kind: ClassVar[str] = "sparsity"
    projected: ClassVar[frozenset[str]] = frozenset({"density", "densities", "pattern"})
    refused_after: ClassVar[Mapping[str, str]] = {
        "quantization": "its scales fit the weights that there were; put sparsity first",
        "codebook": "its tables fit the weights that there were; put sparsity first",
    }

    density: Density | None = None
    """Share of weights kept, over all layers that are masked; None = open, or said by n:m, or by layer (`given`)."""
    densities: dict[str, Density] | None = None
    """The same by layer. The plan's own with protocol `given` (layers not named stay dense), else set by pinning."""
    protocol: Protocol = "uniform"
    """How the density is shared between layers: see `protocols`; `given` = as `densities` say."""
    pattern: str = "unstructured"
    """Or n:m: of each m weights next to each other along the input channels, the n largest stay (see `NOfM`)."""
    pinned: tuple[str, ...] = ()
    """Name patterns (`conv1`, `layer1.*`) of layers that stay dense; none by default."""
    schedule: Literal["one_shot", "gradual"] = "one_shot"
    """Whether masks are final from the start, or close while the network is trained (Zhu & Gupta 2017)."""
    begin: Share = 0.0
    """Of a gradual schedule: the share of the training after which masks begin to close ..."""
    end: Share = 0.75
    """... and that after which they are final."""
    renewals: Annotated[int, Field(ge=1)] = 100
    """How often masks are made anew in between, at equal distances."""
    regression: Literal["least_squares"] | None = None
    """Refit the weights that stay to the outputs that the layer had (see `regression`)."""

    @model_validator(mode="before")
    @classmethod
    def _density_of_the_pattern(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("density") is None and ":" in str(fields.get("pattern", "")):
            n, m = parse_n_of_m(str(fields["pattern"]))
            return {**fields, "density": n / m}
        return fields

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.pattern != "unstructured":
            n, m = parse_n_of_m(self.pattern)
            if self.protocol != "uniform" or self.density != n / m:
                raise ValueError(f"pattern {self.pattern}: leave out density and protocol, each layer keeps n of m")
        if self.protocol == "given" and (self.densities is None or self.density is not None):
            raise ValueError("protocol given: say densities, a share for each layer, and no density")
        if self.densities is not None and self.density is None and self.protocol != "given":
            raise ValueError("densities: say protocol: given with them")
        if self.begin >= self.end:
            raise ValueError(f"begin {self.begin:g} must be below end {self.end:g}: shares of the training")
        if self.schedule == "gradual" and self.regression is not None:
            raise ValueError("regression refits the weights that a final mask leaves; use it with schedule one_shot")
        return self

    def asks_for(self, other: Step) -> bool:
        """As for any step; projection lowers densities and n of n:m, but neither changes m nor the names of layers."""
        if not (super().asks_for(other) and isinstance(other, SparsityStep)):
            return False
        same_form = self.pattern.partition(":")[2] == other.pattern.partition(":")[2]
        if "pattern" in self.model_fields_set and not same_form:
            return False
        if self.density is not None and (other.density is None or other.density > self.density):
            return False
        made = other.densities or {}
        return self.densities is None or (
            made.keys() == self.densities.keys() and all(made[name] <= most for name, most in self.densities.items())
        )

    def space(self, profile: NetworkProfile) -> dict[str, dict[str, Any]]:
        """The density, and the protocol that shares it; each layer's density too where there are few layers.

        Projection sets the total, so what a tuner really decides is how layers share it. Protocols are points that
        are known to be good in a space of as many axes as layers: with dozens of layers a tuner of some tens of trials
        does not beat them by moving single layers, with few it may. Where bytes bound the plan, proposals that differ
        in density alone are one plan after projection, and are tried once. n:m and given densities leave nothing open,
        and a density or protocol that the user has set leaves single layers alone.
        """
        if self.pattern != "unstructured" or self.densities is not None:
            return {}
        layers = profile.products(self.pinned)
        few = len(layers) <= FEW_LAYERS and not self.model_fields_set & {"density", "protocol"}
        uniform = {"_type": "uniform", "_value": [SMALLEST_DENSITY, 1.0]}
        protocols = [*BY_SHAPES, *BY_WEIGHTS, *(["given"] if few else [])]
        by_layer = {f"densities/{name}": uniform for name in layers} if few else {}
        return {"density": uniform, "protocol": {"_type": "choice", "_value": protocols}, **by_layer}

    @property
    def schedule_in_training(self) -> Literal["one_shot", "gradual"]:
        """Gradual, unless the user says otherwise: a fine-tuning always follows."""
        return "gradual" if "schedule" not in self.model_fields_set and self.regression is None else self.schedule

    def proposed(self, parameters: Mapping[str, Any], profile: NetworkProfile) -> Self:
        """The protocol at its density, or `given` with the densities by layer; gradual, as training always follows."""
        schedule = self.schedule_in_training
        if not self.space(profile):
            return self.model_copy(update={"schedule": schedule})
        if parameters["protocol"] != "given":
            chosen = {"density": parameters["density"], "protocol": parameters["protocol"], "densities": None}
        else:
            layers = profile.products(self.pinned)
            named = {name: parameters[key] for name in layers if (key := f"densities/{name}") in parameters}
            chosen = {"density": None, "protocol": "given", "densities": named}
        step = self.model_copy(update={**chosen, "schedule": schedule})
        for name in {"density", "densities"} - self.model_fields_set:
            step.model_fields_set.discard(name)  # not the user's: projection may raise them
        return step

    def project(self, profile: NetworkProfile, limits: Limits) -> Self:
        """The density, or n of n:m, or all densities by one factor, as large as `limits` on bytes allow.

        Where bytes are not limited it is as asked: zeros save no MACs of a dense product. What the user has set is not
        raised.
        """
        self._refuse_misfits(profile)
        refuse_unreachable(profile, self._at_level(0.0).predict(profile), limits)
        if limits.file_bytes is None:
            return self
        level = farthest(lambda level: limits.keeps(self._at_level(level).predict(profile).cost()), 0.0, 1.0)
        return self._at_level(level)

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        """The profile with the layers' densities.

        Exact where shapes decide (uniform, erk, n:m, given) and once pinned. Protocols that look at the weights are
        predicted as uniform until then: no sharing of the same total takes more bytes, a non-zero costing the same in
        each layer.
        """
        self._refuse_misfits(profile)
        shapes = profile.products()
        return profile.with_layers(
            {
                name: {"density": min(profile.layer(name).density, exact_share(count, prod(shapes[name])))}
                for name, count in self._counts(profile).items()
            }
        )

    def pin(self, network: nn.Module, task: Task, data: Split) -> Self:
        """The densities by layer, from the weights where the protocol looks at them; `data` is not looked at."""
        profile = profile_of(network, task.input_shape)
        self._refuse_misfits(profile)
        if self.densities is not None:
            return self
        shapes = profile.products(self.pinned)
        if self.protocol in BY_WEIGHTS:
            weights = {name: weight_of(network, name) for name in shapes}
            counts = BY_WEIGHTS[self.protocol](weights, self._known_density)
        else:
            counts = self._counts(profile)
        densities = {name: exact_share(count, prod(shapes[name])) for name, count in counts.items()}
        return self.model_copy(update={"densities": densities})

    def caveats(self, network: nn.Module, task: Task) -> Sequence[str]:
        """Weights that it leaves alone without being told to."""
        return said_of_several(network, self.kind)

    def apply(self, network: nn.Module, task: Task) -> nn.Module:
        """A copy with masks on the layers that are not whole, by magnitude. Raises UserError if it is not pinned."""
        if self.densities is None:
            raise UserError("sparsity: how dense each layer is left is still open; pin the step to a network first")
        profile = profile_of(network, task.input_shape)
        self._refuse_misfits(profile)
        shapes = profile.products()
        masked = copy.deepcopy(network)
        for name, count in self._counts(profile).items():
            if count < prod(shapes[name]):
                pattern = self._pattern_on(profile, name)
                density = self._known_density if isinstance(pattern, NOfM) else self.densities[name]
                mask = pattern.mask(weight_of(masked, name), density)
                lay_on(masked, name, self._mask(mask, pattern, density))
        return masked

    def calibrate(self, network: nn.Module, before: nn.Module, task: Task, data: Split) -> None:
        """Refit the weights that stay, if asked to; re-estimate BatchNorm: what it normalizes has changed."""
        if self.regression is not None:
            refit(network, before, task, data)
        reestimate_on(network, task, data)

    def in_portions(self, profile: NetworkProfile, count: int) -> tuple[Step, ...]:
        """Each portion takes the same share of what the one before left; n:m and a gradual schedule go at once."""
        if self.schedule == "gradual" or self.pattern != "unstructured":
            return (self,)
        return (*(self._to_the_power(portion / count) for portion in range(1, count)), self)

    def by_layers(self, profile: NetworkProfile, every: int) -> tuple[Step, ...]:
        """A step for each `every` layers; a gradual schedule goes at once, it has the whole training.

        Raises UserError if the weights are still to decide: pin it first.
        """
        if self.schedule == "gradual":
            return (self,)
        if self.densities is None and self.protocol in BY_WEIGHTS:
            raise UserError(f"sparsity: protocol {self.protocol} must be pinned before it can go layer by layer")
        shapes = profile.products()
        densities = {name: exact_share(kept, prod(shapes[name])) for name, kept in self._counts(profile).items()}
        names = list(densities)
        parts = [names[start : start + every] for start in range(0, len(names), every)]
        return tuple(self.model_copy(update={"densities": {name: densities[name] for name in part}}) for part in parts)

    @property
    def _known_density(self) -> float:
        if self.density is None:
            raise UserError("sparsity: density is still open; say which share of weights stays, or let search say it")
        return self.density

    def _counts(self, profile: NetworkProfile) -> dict[str, int]:
        """Weights kept in each layer that is masked, as far as shapes and `densities` tell."""
        shapes = profile.products(self.pinned)
        if self.pattern != "unstructured":
            chosen = shapes if self.densities is None else self.densities
            return {
                name: self._pattern_on(profile, name).kept(shapes[name], self._known_density)
                for name in chosen
                if name in shapes  # others went with their block
            }
        if self.densities is not None:
            return {
                name: Unstructured().kept(shapes[name], share)
                for name, share in self.densities.items()
                if name in shapes
            }
        return BY_SHAPES.get(self.protocol, uniform)(shapes, self._known_density)

    def _pattern_on(self, profile: NetworkProfile, layer: str) -> Pattern:
        """The pattern on a layer; input channels are axis 0 of a transposed convolution's weight, axis 1 of others."""
        if self.pattern == "unstructured":
            return Unstructured()
        n, m = parse_n_of_m(self.pattern)
        return NOfM(n, m, axis=1 - profile.layer(layer).out_axis)

    def _mask(self, mask: Tensor, pattern: Pattern, density: float) -> Mask:
        if self.schedule == "one_shot":
            return Mask(mask)
        return GradualMask(mask, pattern, density, CubicSchedule(self.begin, self.end, self.renewals))

    def _at_level(self, level: float) -> Self:
        """This step with fewest weights at level 0; at level 1 with all, or with as many as the user has set.

        Given densities keep their proportions.
        """
        if self.pattern != "unstructured":  # always the user's
            most, m = parse_n_of_m(self.pattern)
            n = 1 + int(level * (most - 1))
            return self.model_copy(update={"pattern": f"{n}:{m}", "density": n / m, "densities": None})
        if self.protocol != "given" or self.densities is None:
            allowed = self.density if "density" in self.model_fields_set else None
            highest = 1.0 if allowed is None else allowed
            density = level * highest + (1.0 - level) * min(SMALLEST_DENSITY, highest)
            return self.model_copy(update={"density": density, "densities": None})
        if "densities" in self.model_fields_set:
            return self._scaled(level, self.densities)
        return self._scaled(level / min(self.densities.values(), default=1.0), dict.fromkeys(self.densities, 1.0))

    def _scaled(self, factor: float, highest: Mapping[str, float]) -> Self:
        """This step with `factor` times its densities, none above `highest`."""
        scaled = {
            name: min(highest[name], max(SMALLEST_DENSITY, factor * share))
            for name, share in (self.densities or {}).items()
        }
        return self.model_copy(update={"densities": scaled})

    def _to_the_power(self, exponent: float) -> Self:
        """This step with every density raised to `exponent`."""
        density = None if self.density is None else self.density**exponent
        densities = None if self.densities is None else {n: share**exponent for n, share in self.densities.items()}
        return self.model_copy(update={"density": density, "densities": densities})

    def _refuse_misfits(self, profile: NetworkProfile) -> None:
        """Raise Mistakes for what does not fit a network, a line each."""
        if lines := misfits(profile, self.densities or (), self.pinned):
            raise Mistakes(lines)
