"""The step: how many values each layer's weights share, and what is trained."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from pocketpipe.budget import Limits
from pocketpipe.compression.batchnorm import reestimate_on
from pocketpipe.compression.codebook.assignment import choose_by_outputs
from pocketpipe.compression.codebook.kmeans import Initialization
from pocketpipe.compression.codebook.parametrization import Codebook, Form, Grid, Tuned
from pocketpipe.compression.codebook.projection import FEWEST, MOST, projected, refuse_unreachable
from pocketpipe.compression.sparsity.mask import GradualMask, Mask
from pocketpipe.compression.sparsity.step import SparsityStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.compression.weights import laid_on, lay_on, original_of, said_of_several, weight_of
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.plan import STEPS, Step
from pocketpipe.profile import Layer, NetworkProfile, bits_of_index, matches

if TYPE_CHECKING:
    from torch import nn

    from pocketpipe.task import Split, Task

FEW_LAYERS = 12
"""Up to so many layers the search varies the bits of each; in deeper networks all layers share one choice."""
HEAD_BYTES = 160
"""Upper bound of what a layer adds to the packed file beside its numbers: names, sizes of lanes, one node."""
CENTROID_BYTES = FACTOR_BYTES = 4

LayerBits = Annotated[int, Field(ge=FEWEST, le=MOST)]


@STEPS.register("codebook")
class CodebookStep(Step):
    """The weights of a layer share at most `2 ** bits` values (Han et al. 2016, "Deep Compression", section 3).

    >>> CodebookStep(bits=3).tuned, CodebookStep(layers={"conv1": 5}).bits
    ('centroids', 4)
    """

    kind: ClassVar[str] = "codebook"
    projected: ClassVar[frozenset[str]] = frozenset({"layers"})
    refused_after: ClassVar[Mapping[str, str]] = {
        "codebook": "the weights share values already; give one step",
        "quantization": "its scales fit the weights that there were; put codebook first (with grid int8)",
    }

    bits: LayerBits = 4
    """Bits of an index, in all layers, unless `layers` says it by layer."""
    layers: dict[str, LayerBits] | None = None
    """Bits by layer; layers that are not named keep their weights. None = all, with `bits`, until pinned."""
    pinned: tuple[str, ...] = ()
    """Name patterns (`conv1`, `layer1.*`) of layers that keep their weights; none by default."""
    granularity: Literal["per_layer", "per_channel"] = "per_layer"
    """Whether a table serves a layer, or each output channel has its own (in a transposed convolution, each input
    channel: what lies along the weight's first axis)."""
    initialization: Initialization = "linear"
    """From where k-means starts: see `kmeans`."""
    seed: int = 0
    """Of the initialization k-means++."""
    grid: Grid = "float"
    """Whether values are any numbers, or integers from -127 to 127 times one scale for a layer."""
    assignment: Literal["nearest", "gptq"] = "gptq"
    """Which value a weight gets: the nearest, or so that the layer's outputs stay near (see `compression.gptq`)."""
    tuned: Tuned = "centroids"
    """What training changes: the values; `weights`: the weights beneath, which choose their values anew until 75 % of
    the training, then the values; `none`: neither. On gradual masks `weights` unless it is set."""

    def asks_for(self, other: Step) -> bool:
        """As for any step; projection takes bits from layers that the user has named, and gives them none."""
        if not (super().asks_for(other) and isinstance(other, CodebookStep)):
            return False
        if self.layers is None or "layers" not in self.model_fields_set:
            return True
        made = other.layers or {}
        return made.keys() == self.layers.keys() and all(made[name] <= bits for name, bits in self.layers.items())

    def space(self, profile: NetworkProfile) -> dict[str, dict[str, Any]]:
        """Bits of each layer; of all layers together where there are many. Nothing where the user says `layers`."""
        if self.layers is not None:
            return {}
        names = list(self._bits(profile))
        by_layer = len(names) <= FEW_LAYERS and "bits" not in self.model_fields_set
        keys = [f"bits/{name}" for name in names] if by_layer else ["bits"]
        return {key: {"_type": "choice", "_value": list(range(FEWEST, MOST + 1))} for key in keys}

    def proposed(self, parameters: Mapping[str, Any], profile: NetworkProfile) -> Self:
        """The step with these bits."""
        named = {key.removeprefix("bits/"): int(bits) for key, bits in parameters.items() if key.startswith("bits/")}
        if named:
            step = self.model_copy(
                update={"layers": {name: named[name] for name in profile.products() if name in named}}
            )
            step.model_fields_set.discard("layers")  # not the user's: projection may raise them
            return step
        if "bits" in self.model_fields_set or "bits" not in parameters:
            return self
        step = self.model_copy(update={"bits": int(parameters["bits"])})
        step.model_fields_set.discard("bits")  # not the user's: projection may raise them
        return step

    def project(self, profile: NetworkProfile, limits: Limits) -> Self:
        """Fewer bits, the largest layers first, until `limits` on bytes are kept, and as close under them as bits come.

        Where bytes are not limited it is as asked; `bits` and `layers`, where the user has set them, are not raised.
        Raises UserError for what cannot be reached.
        """
        self._refuse_misfits(profile)
        bits = self._bits(profile)

        def predict(chosen: Mapping[str, int]) -> NetworkProfile:
            return self.model_copy(update={"layers": dict(chosen)}).predict(profile)

        refuse_unreachable(profile, predict(dict.fromkeys(bits, FEWEST)), limits)
        if limits.file_bytes is None:
            return self
        elements = {name: prod(shape) for name, shape in profile.products().items()}
        most = bits if {"bits", "layers"} & self.model_fields_set else dict.fromkeys(bits, MOST)
        # What was proposed is in the layers; kept beside them too, it would make several plans of one.
        open_again = {} if "bits" in self.model_fields_set else {"bits": type(self).model_fields["bits"].default}
        return self.model_copy(update={**open_again, "layers": projected(bits, elements, predict, limits, most=most)})

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        """The profile with the bits of indices, and tables beside them. Huffman codes only make it smaller."""
        self._refuse_misfits(profile)
        shapes = profile.products()
        return profile.with_layers(
            {
                name: {
                    "stored_bits": bits,
                    **self._side_bytes(profile.layer(name), shapes[name], bits),
                    "index_bits": bits_of_index(bits) if self.grid == "int8" else 8,
                    "on_a_grid": self.grid == "int8",
                }
                for name, bits in self._bits(profile).items()
            }
        )

    def pin(self, network: nn.Module, task: Task, data: Split) -> Self:
        """The bits by layer; the values are part of the network's state."""
        profile = profile_of(network, task.input_shape)
        self._refuse_misfits(profile)
        bits = self._bits(profile)
        return self.model_copy(update={"layers": bits, "tuned": self._tuned_above_masks(network, bits)})

    def caveats(self, network: nn.Module, task: Task) -> Sequence[str]:
        """Weights that it leaves alone without being told to."""
        return said_of_several(network, self.kind)

    def apply(self, network: nn.Module, task: Task) -> nn.Module:
        """A copy whose layers have codebooks, by k-means of its weights. Raises UserError if it is not pinned."""
        if self.layers is None:
            raise UserError("codebook: the bits of each layer are still open; pin the step to a network first")
        profile = profile_of(network, task.input_shape)
        self._refuse_misfits(profile)
        result = copy.deepcopy(network)
        for name, bits in self.layers.items():
            form = Form(
                bits=bits,
                by_row=self.granularity == "per_channel",
                zero=any(isinstance(each, Mask) for each in laid_on(result, name)),
                grid=self.grid,
                tuned=self.tuned,
            )
            lay_on(result, name, Codebook(weight_of(result, name), form, self.initialization, self.seed))
            original_of(result, name).requires_grad_(self.tuned == "weights")
        return result

    def calibrate(self, network: nn.Module, before: nn.Module, task: Task, data: Split) -> None:
        """Choose each weight's value, if by the outputs; re-estimate BatchNorm: what it normalizes has changed."""
        if self.assignment == "gptq":
            choose_by_outputs(network, before, self.layers or (), task, data)
        reestimate_on(network, task, data)

    def _tuned_above_masks(self, network: nn.Module, layers: Iterable[str]) -> Tuned:
        """`weights`, unless the user says otherwise, on masks that training is still to close: weights that come back
        must be trained, and choose their values anew. Raises UserError where the user has said otherwise."""
        masks = (mask for name in layers for mask in laid_on(network, name))
        if not any(isinstance(mask, GradualMask) and not mask.is_final for mask in masks):
            return self.tuned
        if self._keeps_weights:
            raise UserError(self._refusal)
        return "weights"

    def refused_with(self, earlier: Step) -> str | None:
        """Where the user has it leave weights alone that sparsity is to let come back."""
        gradual = isinstance(earlier, SparsityStep) and earlier.schedule_in_training == "gradual"
        return self._refusal if gradual and self._keeps_weights else None

    @property
    def _keeps_weights(self) -> bool:
        return "tuned" in self.model_fields_set and self.tuned != "weights"

    @property
    def _refusal(self) -> str:
        return (
            f"codebook: tuned: {self.tuned} leaves weights as they are, but the gradual masks beneath choose among "
            "weights that are trained; set tuned: weights, or schedule: one_shot in sparsity"
        )

    def _bits(self, profile: NetworkProfile) -> dict[str, int]:
        """Bits of each layer that gets a codebook, in graph order."""
        if self.layers is not None:
            return {name: self.layers[name] for name in profile.products() if name in self.layers}
        return dict.fromkeys(profile.products(self.pinned), self.bits)

    def _side_bytes(self, layer: Layer, shape: tuple[int, ...], bits: int) -> dict[str, int]:
        """Tables, a factor for each output channel (BatchNorm's, which stands beside the shared values), names.

        On a device tables on the integer grid are bytes, and there are none beside indices of 8 bits: the weights are
        the same bytes.
        """
        channels = shape[layer.out_axis]
        tables = self._centroids(shape, bits) * CENTROID_BYTES
        in_a_file = channels * FACTOR_BYTES + HEAD_BYTES
        as_integers = tables // CENTROID_BYTES if bits_of_index(bits) < 8 else 0
        on_device = as_integers if self.grid == "int8" else tables
        return {
            "side_bytes": layer.side_bytes + tables + in_a_file,
            "file_side_bytes": layer.file_side_bytes + in_a_file + tables - on_device,
        }

    def _centroids(self, shape: tuple[int, ...], bits: int) -> int:
        """Of all tables of a layer together."""
        tables = shape[0] if self.granularity == "per_channel" else 1
        return tables * min(1 << bits, prod(shape) // tables)

    def _refuse_misfits(self, profile: NetworkProfile) -> None:
        """Raise Mistakes for what does not fit a network, a line each."""
        known, shapes = {layer.name for layer in profile.layers}, profile.products()
        lines = [
            f"codebook.pinned: {pattern!r} matches no layer; layers: {', '.join(shapes)}"
            for pattern in profile.idle(self.pinned)
        ]
        for name in self.layers or ():
            if profile.took_out(name):
                continue
            if name not in known:
                lines.append(f"codebook.layers.{name}: no such layer; layers: {', '.join(shapes)}")
            elif name not in shapes:
                lines.append(f"codebook.layers.{name}: not a weight of a convolution or a matrix product")
            elif matches(name, self.pinned):
                lines.append(f"codebook.layers.{name}: a pattern of codebook.pinned says that it keeps its weights")
        if not lines and not self._bits(profile):
            lines.append("codebook: no layer is left that could share values (convolutions and matrix products can)")
        if lines:
            raise Mistakes(lines)
