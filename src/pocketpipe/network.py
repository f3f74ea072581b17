"""StoredNetwork: a network as data. Factory reference + arguments + plan + weights; never a pickled module."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketpipe.doors import Door, Value
from pocketpipe.errors import UserError
from pocketpipe.plan import CompressionPlan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pocketpipe.task import Task

NETWORKS: Door[Callable[..., nn.Module]] = Door("network", room="pocketpipe.networks")
"""Factories: `build(input_shape, outputs, **options) -> nn.Module`; options are keyword-only and annotated."""


@dataclass(frozen=True)
class StoredNetwork:
    """What is needed to have the network again, on any machine, without trusting a pickle."""

    reference: str
    """A zoo name, or `package.module:factory`."""
    options: dict[str, Any] = field(default_factory=dict)
    plan: CompressionPlan = field(default_factory=CompressionPlan)
    """Pinned: replayed on a fresh network of the factory before the weights are loaded."""
    state: Mapping[str, Tensor] = field(default_factory=dict)
    """Empty = weights as the factory initializes them."""

    def build(self, task: Task) -> nn.Module:
        """The network in eval mode. Raises UserError if the weights do not fit it, or it cannot be copied."""
        network = NETWORKS.resolve(self.reference)(task.input_shape, len(task.labels), **self.options)
        _refuse_computed_weights(network, self.reference)
        _settle(network, task.input_shape)
        for step in self.plan.steps:
            network = step.apply(network, task)
        if self.state:
            load_weights(network, self.state, of=self.reference)
        return network.eval()

    def with_weights(self, network: nn.Module) -> StoredNetwork:
        """The same structure with the weights of `network` (copied to CPU)."""
        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
        return replace(self, state=state)

    def digest(self) -> str:
        """SHA-256 over structure and weights."""
        digest = hashlib.sha256(f"{self.reference}{sorted(self.options.items())}{self.plan.to_json()}".encode())
        for name in sorted(self.state):
            tensor = self.state[name]
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode() + _bytes_of(tensor))
        return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> bytes:
    """Of any type, also of those that NumPy does not have (bfloat16)."""
    import torch

    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _settle(network: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Lazy modules are given their shapes, buffers that are one number seen many times (`expand`) their own memory."""
    import torch
    from torch.nn.parameter import is_lazy

    if any(is_lazy(tensor) for tensor in (*network.parameters(), *network.buffers())):
        with torch.no_grad():
            network.eval()(torch.zeros(1, *input_shape))
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if 0 in buffer.stride() and buffer.numel() > 1:
                module._buffers[name] = buffer.clone(memory_format=torch.contiguous_format)


def _refuse_computed_weights(network: nn.Module, reference: str) -> None:
    """Raise UserError for tensors that lie in a module as results, which torch does not copy."""
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if getattr(value, "grad_fn", None) is not None:
                raise UserError(
                    f"network {reference!r}: {path}.{name} is computed (torch.nn.utils.weight_norm?) and cannot be "
                    "copied; take it off (remove_weight_norm), or use torch.nn.utils.parametrizations"
                )


def load_weights(network: nn.Module, state: Mapping[str, Tensor], *, of: str) -> None:
    """Load `state` into `network`, strictly. Raises UserError that names the first keys that do not fit.

    BatchNorm's `num_batches_tracked` may be missing: published weights often leave it out. A module that stands for one
    of torch's (`networks.unrolling`) says by `take_names_of_torch` what that one's weights are called in it.
    """
    state = _as_named_here(dict(state), network.state_dict())
    for path, module in network.named_modules():
        take = getattr(module, "take_names_of_torch", None)
        if callable(take):
            take(state, f"{path}." if path else "")
    _fill_in_tied(state, network)
    own = network.state_dict()
    needed = {name for name in own if not name.endswith("num_batches_tracked")}
    missing = sorted(needed - set(state))
    surplus = sorted(set(state) - set(own))
    misfit = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(set(own) & set(state))
        if state[name].shape != own[name].shape
    ]
    problems = [
        f"{title}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for title, names in (("missing", missing), ("unknown", surplus), ("shape", misfit))
        if names
    ]
    if problems:
        raise UserError(f"weights do not fit network {of!r}; " + "; ".join(problems))
    network.load_state_dict(state, strict=False)


def _fill_in_tied(state: dict[str, Tensor], network: nn.Module) -> None:
    """A tensor with several names, of which files hold one as a rule (`safetensors.torch.save_model`), under each."""
    names: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    for same in names.values():
        there = [name for name in same if name in state]
        if there:
            state.update({name: state[there[0]] for name in same if name not in state})


def _as_named_here(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the words before all names that scripts put there (`model.`, `_orig_mod.`), if some of the rest fit."""
    shorter = state
    while shorter and shorter.keys().isdisjoint(own):
        first = {name.partition(".")[0] for name in shorter}
        if len(first) > 1 or not all("." in name for name in shorter):
            return state
        shorter = {name.partition(".")[2]: tensor for name, tensor in shorter.items()}
    return shorter


class NetworkChoice(Value):
    """The `network` section of a configuration: which network, and the weights that the user brings, if any."""

    name: str
    weights: Path | None = None
    options: dict[str, Any] = {}

    def weights_path(self, data_root: Path) -> Path | None:
        """The weights file; a relative path counts from the data root."""
        return None if self.weights is None else data_root / self.weights.expanduser()

    def fresh(self) -> StoredNetwork:
        """The network as its factory makes it: no plan, no weights yet."""
        return StoredNetwork(self.name, self.options)
