"""Numbers in a user's modules that may be lengths of axes: which must change when channels go, running shows."""

from __future__ import annotations

from torch import Tensor, nn

from pocketpipe.compression.modules import is_torchs_own
from pocketpipe.compression.tracing.activations import Activation
from pocketpipe.compression.tracing.walking import Size, Walk, module_paths

OF_TORCH = {nn.MultiheadAttention: ("num_heads",)}
"""Attributes of torch's own modules that no weight's shape tells. All others are told by `slimming`."""


def resizable(network: nn.Module, walk: Walk, roots: Tensor) -> tuple[Size, ...]:
    """Attributes that hold the length of an axis, with labels, of a tensor that is made in their module.

    Several candidates may be for the same attribute: axes of equal length with different labels.
    """
    numbers = {path: _numbers(module) for path, module in network.named_modules()}
    found: dict[tuple[str, str, bytes], Size] = {}
    for node, value in walk.values.items():
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, Activation) or part.labels is None:
                continue
            labels = roots[part.labels]
            for path in module_paths(node):
                for attribute, number in numbers.get(path, {}).items():
                    if number == len(labels):
                        size = Size(path, attribute, labels)
                        found.setdefault((path, attribute, labels.numpy().tobytes()), size)
    return tuple(found.values())


def _numbers(module: nn.Module) -> dict[str, int]:
    """Names and values of its whole numbers above one, in a user's module; of torch's own only the known ones."""
    if callable(getattr(module, "keep_channels", None)):
        return {}
    numbers = {name: value for name, value in vars(module).items() if type(value) is int and value > 1}
    for known, names in OF_TORCH.items():
        if isinstance(module, known):
            return {name: numbers[name] for name in names if name in numbers}
    return {} if is_torchs_own(module) else numbers
