"""What networks make on the way to their outputs: at which points to compare them, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pocketpipe.compression.distillation import attention_loss, channels_last, hint_loss
from pocketpipe.compression.modules import evaluating, hooked
from pocketpipe.errors import UserError
from pocketpipe.training.distilling import Attention, Hints

Hook = Callable[[nn.Module, Any, Any], None]
ALONG_A_LINE = (
    nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d,
    nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveMaxPool1d, nn.AdaptiveAvgPool1d,
)  # fmt: skip
"""What makes (N, channels, positions), where other maps with three axes are (N, positions, channels)."""


@dataclass(frozen=True)
class Response:
    """What a network says to a batch: outputs (N, ..., classes), and the features at the points watched."""

    outputs: Tensor
    features: tuple[Tensor, ...] = ()
    on_the_way: tuple[Tensor, ...] = ()
    """What auxiliary classifiers read."""


class Watched:
    """A network whose response tells what its modules at `points` make.

    The hooks stay on the network (a compiled forward must find the same ones at every step); copy it before.
    """

    def __init__(self, network: nn.Module, points: Sequence[str] = ()) -> None:
        self.network = network
        self._points = tuple(points)
        self._made: dict[str, Tensor] = {}
        for point in self._points:
            network.get_submodule(point).register_forward_hook(self._keeper(point))

    def forward(self, inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(outputs, features) for inputs (N, ...); of a module that is called more than once, the last call."""
        self._made = {}  # a new one: what others' calls of the network left must not make a compiled forward anew
        outputs: Tensor = self.network(inputs)
        if not self._made.keys() >= {*self._points}:
            idle = ", ".join(point for point in self._points if point not in self._made)
            raise UserError(
                f"{idle}: did not run in a training step, as where layers are skipped by chance; name other points, or "
                "set distillation.features and auxiliary to null"
            )
        features = tuple(self._made[point] for point in self._points)
        self._made = {}
        return outputs, features

    def _keeper(self, point: str) -> Hook:
        def keep(module: nn.Module, inputs: object, made: Tensor) -> None:
            self._made[point] = _as_a_map(module, made)

        return keep


def shapes_made(network: nn.Module, input_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shape (channels, *positions) or (positions, channels) of what each module makes of one example.

    In the order in which they finish; modules that make no map with more than one position are left out. So are those
    of three axes, in a network with convolutions along a line, of which the module does not say which are the channels.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    has_lines = any(isinstance(module, nn.Conv1d | nn.ConvTranspose1d) for module in network.modules())

    def keeper(path: str) -> Hook:
        def keep(module: nn.Module, inputs: object, made: object) -> None:
            if not isinstance(made, Tensor) or made.ndim < 3:
                return
            if made.ndim == 3 and has_lines and not isinstance(module, (*ALONG_A_LINE, nn.Linear, nn.LayerNorm)):
                return
            shape = tuple(_as_a_map(module, made).shape[1:])
            if positions(shape).numel() > 1:
                shapes.pop(path, None)
                shapes[path] = shape

        return keep

    hooks = [module.register_forward_hook(keeper(path)) for path, module in network.named_modules() if path]
    with hooked(hooks), evaluating(network), torch.no_grad():
        network(torch.zeros(1, *input_shape))
    return shapes


def _as_a_map(module: nn.Module, made: Tensor) -> Tensor:
    """What the module made as `distillation.channels_last` expects it: with three axes, the channels are the last."""
    return made.movedim(1, -1) if made.ndim == 3 and isinstance(module, ALONG_A_LINE) else made


def positions(shape: Sequence[int]) -> torch.Size:
    """The axes of a feature map's shape (without batch) that are no channels: see `distillation.channels_last`."""
    return torch.Size(shape[:1] if len(shape) == 2 else shape[1:])


def width(shape: Sequence[int]) -> int:
    """The number of channels of a feature map's shape (without batch)."""
    return shape[-1] if len(shape) == 2 else shape[0]


def common_points(
    student: dict[str, tuple[int, ...]], teacher: dict[str, tuple[int, ...]], named: Sequence[str] | None
) -> tuple[str, ...]:
    """The points to compare, of networks that make these shapes: `named`, or else the last of each resolution.

    A thinned network has the modules of the whole one, so the same path means the same place. Raises UserError for a
    name that one of them lacks, for maps of different size, and where nothing is found.
    """
    fitting = [
        path for path, shape in student.items() if path in teacher and positions(shape) == positions(teacher[path])
    ]
    if named is not None:
        wrong = [path for path in named if path not in fitting]
        if wrong:
            raise UserError(
                f"distillation.features.points: {', '.join(wrong)}: no maps of the same size in student and teacher, "
                "or (with convolutions along a line) none of which it is known where the channels are; "
                f"possible: {', '.join(fitting) or 'none'}"
            )
        return tuple(named)
    last = {positions(student[path]): path for path in fitting}
    if not last:
        raise UserError(
            "distillation.features: student and teacher make no maps of the same size at the same module; "
            "set features to null"
        )
    return tuple(last.values())


class FeatureDistance(nn.Module):
    """Distance of a student's features from a teacher's, with regressors that are trained with the student.

    The regressors (one linear map of the channels, at each position the same: a 1x1 convolution) are there only where
    hints compare features of different widths. They are no part of what is delivered.
    """

    def __init__(self, choice: Attention | Hints, widths_student: Sequence[int], widths_teacher: Sequence[int]) -> None:
        super().__init__()
        self._choice = choice
        self.regressors = nn.ModuleList(
            nn.Linear(own, taught) if isinstance(choice, Hints) and own != taught else nn.Identity()
            for own, taught in zip(widths_student, widths_teacher, strict=True)
        )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Weighted sum over the points, a float32 scalar."""
        pairs = zip(self.regressors, student, teacher, strict=True)
        return self._choice.weight * torch.stack([self._distance(*pair) for pair in pairs]).sum()

    def _distance(self, regressor: nn.Module, own: Tensor, taught: Tensor) -> Tensor:
        match self._choice:
            case Attention():
                return attention_loss(own, taught)
            case Hints():
                return hint_loss(regressor(channels_last(own).float()), channels_last(taught))
