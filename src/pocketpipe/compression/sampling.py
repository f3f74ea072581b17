"""What layers read and write on calibration examples, at sampled positions, as rows of a least-squares problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from pocketpipe.compression.members import Reader, ReadingModule
from pocketpipe.compression.modules import evaluating, hooked, input_of
from pocketpipe.errors import UserError
from pocketpipe.samples import examples_at_once, prepared, targets_tensor, to_tensor, training_view
from pocketpipe.task import Split, Task

EXAMPLES, FEWEST = 512, 32
"""Calibration examples that are taken at once, and at least these however large one is."""
VIEW_SEED = 1

Look = Callable[[str, ReadingModule, Tensor, Tensor], None]
"""Called with (layer, module, input, output) when a layer has run."""


def calibration(task: Task, data: Split | None, device: torch.device, *, wanted_by: str) -> tuple[Tensor, Tensor]:
    """(prepared inputs, targets) of the first examples of `data`: `EXAMPLES`, or fewer where one is large.

    Raises UserError if there are none; `wanted_by` says for what they are needed.
    """
    first = _first(task, data, wanted_by)
    inputs = prepared(task.preprocessing, to_tensor(first.inputs))
    return inputs.to(device), targets_tensor(first.targets).to(device)


def training_views(task: Task, data: Split | None, device: torch.device, *, wanted_by: str) -> Tensor:
    """As `calibration`, one augmented view of each: what the weights were trained on, and statistics are taken from."""
    first = _first(task, data, wanted_by)
    return training_view(task, first.inputs, first.targets, torch.Generator().manual_seed(VIEW_SEED)).to(device)


def some_of(data: Split | None, wanted_by: str) -> Split:
    """The split. Raises UserError if there is none, or nothing in it."""
    if data is None or not len(data):
        raise UserError(f"{wanted_by} needs calibration examples, and there are none; give a split that has some")
    return data


def _first(task: Task, data: Split | None, wanted_by: str) -> Split:
    data = some_of(data, wanted_by)
    limit = examples_at_once(task.input_shape, fewest=FEWEST, most=EXAMPLES)
    first = Split(data.name, data.inputs[:limit], data.targets[:limit])
    if not np.isfinite(first.inputs).all():
        raise UserError(
            f"{wanted_by} looks at the first {len(first)} examples of {data.name}: there is NaN or infinity"
        )
    return first


@contextmanager
def watched(network: nn.Module, layers: Iterable[str], look: Look) -> Iterator[None]:
    """Call `look` for each run of each of `layers`, in eval mode; its hooks are gone afterwards."""

    def hook(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], None]:
        return lambda module, inputs, named, output: look(layer, module, input_of(inputs, named), output)  # type: ignore[arg-type]

    handles = [network.get_submodule(layer).register_forward_hook(hook(layer), with_kwargs=True) for layer in layers]
    with hooked(handles), evaluating(network):
        yield


def sampled(module: ReadingModule, output: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Positions (examples, each) of `output` of the layer, drawn anew for each example; all where they are few.

    `rows` is how many are wanted over all examples (at least one each).
    """
    examples, positions = output.shape[0], prod(channels_last(module, output).shape[1:-1])
    each = max(1, rows // examples)
    if each >= positions:
        return torch.arange(positions).expand(examples, -1).to(output.device)
    return torch.randint(positions, (examples, each), generator=generator).to(output.device)


def output_rows(module: ReadingModule, output: Tensor, positions: Tensor) -> Tensor:
    """(examples * each, channels): the layer's outputs at `positions`."""
    places = channels_last(module, output).flatten(1, -2)
    return places[torch.arange(len(places), device=places.device)[:, None], positions].flatten(0, 1)


def input_rows(module: ReadingModule, inputs: Tensor, positions: Tensor) -> Tensor:
    """(examples * each, weights of one output): what the layer's weight is multiplied with at `positions`.

    Columns are ordered as in `weight.flatten(1)`, so that `rows @ weight.flatten(1).T + bias` is `output_rows`.
    """
    examples = torch.arange(len(positions), device=inputs.device)[:, None]
    return patches(module, inputs, examples, positions).flatten(0, 1).flatten(1)


def patches(module: ReadingModule, inputs: Tensor, examples: Tensor, positions: Tensor) -> Tensor:
    """(..., groups, inputs of a group): what a layer, which may be grouped, reads of `examples` for its outputs at
    `positions`. Both are indices and broadcast to (...); inputs are ordered as in `weight.flatten(1)`.
    """
    if isinstance(module, nn.Linear):
        return channels_last(module, inputs).flatten(1, -2)[examples, positions].unsqueeze(-2)
    padding: list[int] = module._reversed_padding_repeated_twice  # what torch itself pads by, "same" included
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    windows = functional.pad(inputs, padding, mode=mode)
    spatial = zip(module.kernel_size, module.stride, module.dilation, strict=True)
    for axis, (size, stride, dilation) in enumerate(spatial, start=2):
        windows = windows.unfold(axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    dims = len(module.kernel_size)
    place = torch.unravel_index(positions, windows.shape[2 : 2 + dims])
    read = windows.movedim(1, 1 + dims)[(examples, *place)]  # (..., channels, *kernel)
    return read.flatten(-1 - dims).view(*read.shape[: -1 - dims], module.groups, -1)


def channels_last(module: ReadingModule, tensor: Tensor) -> Tensor:
    """Input or output of a layer as (examples, ..., channels), with one position where it has none."""
    moved = tensor.movedim(1, -1) if isinstance(module, _ConvNd) else tensor
    return moved[:, None] if moved.dim() == 2 else moved


def columns_of(module: ReadingModule, reader: Reader) -> Tensor:
    """(channels, weights of one channel): columns of `weight.flatten(1)`, and of `input_rows`, for each channel."""
    taps = prod(module.weight.shape[2:])
    columns = reader.indices[..., None] * taps + torch.arange(taps)
    return columns.flatten(1).to(module.weight.device)
