"""A device that is not the CPU, for machines without one: it computes as the CPU does, and does not mix with it.

PyTorch calls it `meta`. What a GPU would refuse is refused: operations on tensors of two devices (but for single
numbers and indices), and NumPy. In a block of `elsewhere`, `network.to(DEVICE)` and `device=DEVICE` work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
ACROSS = ("aten._to_copy.default", "aten.copy_.default")
"""Operations that are there to go from one device to another."""
INDICES = (torch.int64, torch.bool)


class There(Tensor):
    """A tensor of the other device; its numbers are in `held`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        there: There = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE, requires_grad=False,
        )  # fmt: skip
        there.held = held
        return there

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    some_there = any(isinstance(each, There) for each in tensors)
    if some_there and str(func) not in ACROSS:
        indexed = str(func).startswith("aten.index")
        for each in tensors:
            if not isinstance(each, There) and each.dim() > 0 and not (indexed and each.dtype in INDICES):
                raise RuntimeError(f"Expected all tensors to be on the same device: {func}")
    to = kwargs.get("device")
    ends_there = some_there if to is None else torch.device(to) == DEVICE
    on_cpu = kwargs if to is None else kwargs | {"device": torch.device("cpu")}
    made = func(*_held(args), **_held(on_cpu))
    if str(func) == "aten.copy_.default":
        return args[0]
    if not ends_there:
        return made
    made = tree_map_only(Tensor, There, made)
    return return_and_correct_aliasing(func, args, kwargs, made) if some_there else made


def _held(values: Any) -> Any:
    return tree_map_only(There, lambda each: each.held, values)


class _Creation(TorchDispatchMode):
    """`device=DEVICE` where a tensor is made out of nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class _Conversion(TorchFunctionMode):
    """What torch does not compute for its own `meta`: tensors from numbers, indices among them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return There(func(*args, **(kwargs | {"device": "cpu"})))
        if func in (torch.unravel_index, torch.Tensor.new_tensor) and isinstance(args[0], There):
            return tree_map_only(Tensor, There, func(args[0].held, *args[1:], **kwargs))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            numbers = tuple(torch.tensor(each, dtype=torch.int64) if isinstance(each, list) else each for each in index)
            args = (args[0], numbers, *args[2:])
        return func(*args, **kwargs)


@contextmanager
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """There is another device within the block."""

    def inference_mode(mode: bool = True) -> torch.set_grad_enabled:  # has no subclasses of tensors
        return torch.set_grad_enabled(not mode)

    with monkeypatch.context() as patch, _Conversion(), _Creation():
        patch.setattr(torch, "inference_mode", inference_mode)
        yield
