"""Quantization as a step of a plan: bits for every layer, the network that rounds, and its cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pocketpipe.budget import Limits
from pocketpipe.compression.gptq import round_layers
from pocketpipe.compression.quantization.adaround import round_network
from pocketpipe.compression.quantization.bias_correction import correct_bias
from pocketpipe.compression.quantization.calibration import (
    WeightRanges,
    set_activation_steps,
    set_weight_steps,
    take_parameters,
    weight_grids,
)
from pocketpipe.compression.quantization.clipping import Ranges
from pocketpipe.compression.quantization.equalization import equalize
from pocketpipe.compression.quantization.folding import fold_batchnorm
from pocketpipe.compression.quantization.grids import layers_with_grids
from pocketpipe.compression.quantization.insertion import FLOAT, Bits, Granularity, insert
from pocketpipe.compression.quantization.reading import LAYERS
from pocketpipe.compression.quantization.symbolic import lost_in_training
from pocketpipe.compression.sampling import FEWEST, some_of
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.plan import STEPS, Step
from pocketpipe.profile import Layer, NetworkProfile, bits_of_index
from pocketpipe.samples import examples_at_once, prepared_batches

if TYPE_CHECKING:
    from torch import nn

    from pocketpipe.task import Split, Task

CHOICES = (8, 6, 4, 3, 2)
"""Bits of a weight that search tries."""
MOST_BITS = max(CHOICES)
MOST_CHOICES = 24
"""A network with more layers gets the same bits for several in a row: tuners lose their way in larger spaces."""
BATCH = 64

QUANTIZABLE = frozenset(name.removeprefix("aten.") for name in LAYERS)
"""Operators of a profile whose weights are quantized."""
STEP_BYTES = 8
"""Of a channel: a step for its weights and one for its bias."""
NODE_BYTES = 200
"""Upper bound of what a weight adds to the graph beside the numbers: names and nodes."""
GRAPH_GROWTH = 1.5
"""Upper bound of how much larger a graph gets by the nodes that quantize what is between its own."""
PACKED_GROWTH = 1.75
"""Upper bound of how much larger a packed graph gets by both: 1.1 in CNNs, 1.4 in a ViT, 1.6 in a GRU."""


def _is_bits(bits: int) -> int:
    if bits != FLOAT and not 2 <= bits <= 8:
        raise ValueError(f"{bits} bits: 2 to 8 are possible, or {FLOAT} to leave the weight in float")
    return bits


TensorBits = Annotated[int, Field(ge=2, le=8)]
LayerBits = Annotated[int, AfterValidator(_is_bits)]


def storage_bits(bits: int) -> int:
    """Bits that an element takes in the ONNX file, which has integers of 4 and of 8; packed it takes `bits`.

    >>> [storage_bits(bits) for bits in (2, 4, 5, 8)]
    [4, 4, 8, 8]
    """
    return 4 if bits <= 4 else 8


@STEPS.register("quantization")
class QuantizationStep(Step):
    """Weights and the tensors between layers as integers.

    >>> QuantizationStep(weight_bits=4, bits={"conv1": 8}).activation_bits
    8
    """

    kind: ClassVar[str] = "quantization"
    projected: ClassVar[frozenset[str]] = frozenset({"bits"})
    refused_after: ClassVar[Mapping[str, str]] = {"quantization": "the network is quantized already; give one step"}
    brings_integers: ClassVar[bool] = True

    weight_bits: TensorBits = 8
    activation_bits: TensorBits = 8
    """Of what convolutions and linear layers read; sums and averages always have 8."""
    first_last: TensorBits = 8
    """Of the first and the last layer."""
    bits: dict[str, LayerBits] = {}
    """Of single layers' weights by name, whatever the others have; 32 leaves one in float."""
    granularity: Granularity = "per_channel"
    """One step for each output channel of a weight, or one for the weight."""
    batchnorm: Literal["late", "folded"] = "late"
    """Fold BatchNorm into the weights at export (it goes on learning in training) or before anything is rounded."""
    output: Literal["quantized", "float"] = "quantized"
    """The network's output: 8-bit integers, or as the last layer's sum comes."""
    ranges: Ranges = "mse"
    """How the range of a tensor follows from what was seen of it."""
    weight_ranges: WeightRanges = "mse"
    """How a weight's step follows from the weight."""
    equalization: Literal["none", "cross_layer"] = "none"
    """Scale channels of neighbouring layers alike first (Nagel et al. 2019); needs `batchnorm: folded`."""
    rounding: Literal["nearest", "gptq", "adaround"] = "gptq"
    """Of weights of fewer than 8 bits: to the nearest integer, so that those rounded later make up for those rounded
    earlier (Frantar et al. 2023), or learned (Nagel et al. 2020). Of 8 bits: learned or to the nearest."""
    bias_correction: Literal["none", "empirical"] = "none"
    """Take the mean error that rounding makes out of the biases (Nagel et al. 2019)."""
    examples: Annotated[int, Field(ge=1)] = 512
    """Training examples from which ranges are measured."""

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.equalization != "none" and self.batchnorm != "folded":
            raise ValueError("equalization: cross_layer needs batchnorm: folded")
        return self

    def asks_for(self, other: Step) -> bool:
        """As for any step; projection takes bits from layers that the user has named, but makes no float integers."""
        if not (super().asks_for(other) and isinstance(other, QuantizationStep)):
            return False
        asked = self.bits if "bits" in self.model_fields_set else {}
        made = {name: other.bits.get(name, FLOAT) for name in asked}
        return all(made[name] == bits if bits == FLOAT else made[name] <= bits for name, bits in asked.items())

    def space(self, profile: NetworkProfile) -> dict[str, dict[str, Any]]:
        """Bits of each layer's weight, of several in a row in deep networks; the first and the last keep theirs.

        Nothing where the user has set the weights' bits.
        """
        if {"weight_bits", "bits"} & self.model_fields_set:
            return {}
        return {key: {"_type": "choice", "_value": list(CHOICES)} for key in _runs(profile)}

    def proposed(self, parameters: Mapping[str, Any], profile: NetworkProfile) -> Self:
        """The bits as proposed; where an earlier step took layers out of the runs, by position among those left."""
        if not parameters:
            return self
        runs = _runs(profile)
        if parameters.keys() <= runs.keys() or runs.keys() <= parameters.keys():
            bits = {layer: int(parameters[key]) for key, run in runs.items() if key in parameters for layer in run}
        else:
            values = [int(parameters[key]) for key in sorted(parameters, key=_as_people_sort)]
            left = [layer for run in runs.values() for layer in run]
            bits = {layer: values[place * len(values) // len(left)] for place, layer in enumerate(left)}
        step = self.model_copy(update={"bits": {**self.bits, **bits}})
        step.model_fields_set.discard("bits")  # not the user's: projection may change them
        return step

    def project(self, profile: NetworkProfile, limits: Limits) -> Self:
        """With fewer bits for the largest layers until the limits are kept; then with as many as they leave room for.

        Bits that the user has set are not raised.
        """
        self._refuse_misfits(profile)
        stays, cost = limits.only("macs", "peak_ram_bytes"), self.predict(profile).cost()
        if not stays.keeps(cost):
            raise UserError(
                f"quantization: {stays.over(cost)}, and fewer bits change that no further; "
                "add channels or blocks before it"
            )
        step = self
        while not limits.keeps(step.predict(profile).cost()):
            step = step._smaller(profile, limits)
        bits = self._bits_by_layer(profile)
        return step._filled(profile, limits, most=dict.fromkeys(bits, MOST_BITS) if self.space(profile) else bits)

    def predict(self, profile: NetworkProfile) -> NetworkProfile:
        """The profile with fewer bits for each element, and more graph."""
        self._refuse_misfits(profile)
        bits = self._bits_by_layer(profile)
        changed = {
            layer.name: _stored(layer, bits[layer.name], profile)
            for layer in profile.layers
            if bits.get(layer.name, FLOAT) != FLOAT
        }
        packed = None if profile.packed_overhead is None else ceil(profile.packed_overhead * PACKED_GROWTH)
        overhead = ceil(profile.file_overhead * GRAPH_GROWTH) + NODE_BYTES * len(changed)
        update = {"file_overhead": overhead, "packed_overhead": packed, "activation_bytes": 1}
        return profile.with_layers(changed).model_copy(update=update)

    def pin(self, network: nn.Module, task: Task, data: Split) -> Self:
        """As it is. Raises UserError for layers whose weights cannot be quantized, by name."""
        from pocketpipe.compression.tracing import profile_of

        profile = profile_of(network, task.input_shape)
        self._refuse_misfits(profile)
        wanted = {layer for layer, bits in self._bits_by_layer(profile).items() if bits != FLOAT}
        missing = sorted(wanted - set(layers_with_grids(self.apply(network, task))))
        if missing:
            raise UserError(
                f"quantization: the weights of {', '.join(missing)} are not read directly by a convolution or linear "
                f"layer; leave them in float (bits: {{{missing[0]}: {FLOAT}}})"
            )
        return self

    def caveats(self, network: nn.Module, task: Task) -> Sequence[str]:
        """Code that runs in training alone is not in the graph that a quantized network computes."""
        lost = lost_in_training(network, task.input_shape)
        if lost is None:
            return ()
        return (
            f"quantization: {lost} does something in training alone, without which the quantized network is tuned; to "
            "keep it, put it into a module without parameters that returns its input in eval mode",
        )

    def apply(self, network: nn.Module, task: Task) -> nn.Module:
        """A copy of `network` with quantizers, not calibrated."""
        bits = Bits(self.weight_bits, self.activation_bits, self.first_last, self.bits)
        return insert(
            self._folded(network, task), task.input_shape, bits, granularity=self.granularity, output=self.output
        )

    def calibrate(self, network: nn.Module, before: nn.Module, task: Task, data: Split) -> None:
        """Set all steps from the weights and the first `examples` of `data`, then carry out the options."""
        at_once = examples_at_once(task.input_shape, fewest=1, most=BATCH)
        batches = list(prepared_batches(task, some_of(data, "quantization"), at_once, limit=self.examples))
        reference = self._folded(before, task)
        if self.equalization == "cross_layer":
            equalize(reference, task.input_shape)
            take_parameters(network, reference)
        set_weight_steps(network, self.weight_ranges)
        set_activation_steps(network, batches, self.ranges)
        if self.rounding == "gptq":
            coarse = {layer: grid.nearest for layer, grid in weight_grids(network).items() if grid.bits < MOST_BITS}
            whole = examples_at_once(task.input_shape, fewest=FEWEST, most=self.examples)
            round_layers(network, reference, batches[: ceil(whole / at_once)], coarse)
        if self.rounding == "adaround":
            round_network(network, reference, batches, weight_grids(network))
        if self.bias_correction == "empirical":
            correct_bias(network, reference, batches)

    def _folded(self, network: nn.Module, task: Task) -> nn.Module:
        """The network whose weights are rounded: with its BatchNorm, or a copy without."""
        return fold_batchnorm(network, task.input_shape) if self.batchnorm == "folded" else network

    def _bits_by_layer(self, profile: NetworkProfile) -> dict[str, int]:
        order = _quantizable(profile)
        bits = Bits(self.weight_bits, self.activation_bits, self.first_last, self.bits)
        return {layer: bits.of_weight(layer, order) for layer in order}

    def _smaller(self, profile: NetworkProfile, limits: Limits) -> Self:
        """With fewer bits for the layer that takes most bytes of those that can have fewer. Raises UserError."""
        bits = self._bits_by_layer(profile)
        after = self.predict(profile)
        widths = after.widths()
        fewer = {
            layer: next((choice for choice in CHOICES if choice < bits[layer]), None)
            for run in _runs(profile).values()
            for layer in run
            if bits[layer] != FLOAT
        }
        largest = max(
            (layer for layer in after.layers if fewer.get(layer.name) is not None),
            key=lambda layer: layer.cost(widths).stored_bytes,
            default=None,
        )
        if largest is None:
            raise UserError(
                f"quantization: with the fewest bits {limits.over(after.cost())}; reachable: compression "
                f"{profile.cost().ratio_to(after.cost())['compression']:.4g}"
            )
        return self.model_copy(update={"bits": {**self.bits, largest.name: fewer[largest.name]}})

    def _filled(self, profile: NetworkProfile, limits: Limits, *, most: Mapping[str, int]) -> Self:
        """With more bits, up to `most`, as long as `limits` are kept: layers with the fewest first, of these the
        smallest."""
        elements = {layer.name: layer.cost(profile.widths()).parameters for layer in profile.layers}
        step = self
        waiting = [layer for run in _runs(profile).values() for layer in run]
        while waiting:
            bits = step._bits_by_layer(profile)
            layer = min(waiting, key=lambda name: (bits[name], elements[name]))
            larger = [choice for choice in (*CHOICES, most[layer]) if bits[layer] < choice <= most[layer]]
            more = min(larger, default=None)
            wider = None if more is None else step.model_copy(update={"bits": {**step.bits, layer: more}})
            if wider is not None and limits.keeps(wider.predict(profile).cost()):
                step = wider
            else:
                waiting.remove(layer)
        return step

    def _refuse_misfits(self, profile: NetworkProfile) -> None:
        """Raise Mistakes for layers that the network does not have, a line each."""
        known = _quantizable(profile)
        unknown = sorted(name for name in set(self.bits) - set(known) if not profile.took_out(name))
        if unknown:
            raise Mistakes([f"quantization.bits.{name}: no such layer; layers: {', '.join(known)}" for name in unknown])


def _quantizable(profile: NetworkProfile) -> tuple[str, ...]:
    """Layers with a weight that is quantized, in the order of the graph."""
    return tuple(layer.name for layer in profile.layers if layer.operator in QUANTIZABLE and layer.weight)


def _runs(profile: NetworkProfile) -> dict[str, tuple[str, ...]]:
    """Layers that get their bits together, by the key of the search space; without the first and the last layer, and
    those whose values lie on a grid already."""
    inner = tuple(name for name in _quantizable(profile)[1:-1] if not profile.layer(name).on_a_grid)
    length = max(1, ceil(len(inner) / MOST_CHOICES))
    runs = [inner[start : start + length] for start in range(0, len(inner), length)]
    return {run[0] if len(run) == 1 else f"{run[0]}..{run[-1]}": run for run in runs}


def _as_people_sort(name: str) -> tuple[tuple[int, str], ...]:
    """Numbers in names by their value, as layers of a network follow each other.

    >>> sorted(["block.10", "block.9"], key=_as_people_sort)
    ['block.9', 'block.10']
    """
    parts = re.findall(r"\d+|\D+", name)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


def _stored(layer: Layer, bits: int, profile: NetworkProfile) -> dict[str, object]:
    """What changes of a layer; one with a codebook keeps the bits of its indices, and its grid if it has one."""
    bits = 8 if layer.on_a_grid else bits
    widths = profile.widths()
    channels = layer.bias.size(widths) if layer.bias else max(axis.size(widths) for axis in layer.weight[:2])
    return {
        "stored_bits": min(layer.stored_bits, bits),
        "resident_bits": storage_bits(bits),
        "index_bits": min(layer.index_bits, bits_of_index(bits)),
        "side_bytes": layer.side_bytes + STEP_BYTES * channels,
    }
