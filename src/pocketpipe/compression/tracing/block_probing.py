"""Tries out what the graph says of blocks: a network without them must compute what it does if they add nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from pocketpipe.compression.taking_out import emptied, moved_up, swapped
from pocketpipe.compression.tracing.examples import computes_the_same, example_for, first_output
from pocketpipe.compression.tracing.walking import shape_of

if TYPE_CHECKING:
    from pocketpipe.compression.tracing.residual import Residual


def that_can_go(network: nn.Module, program: ExportedProgram, found: Sequence[Residual]) -> list[Residual]:
    """Those without which the network runs, and computes what it does when nothing is added in them."""
    if _right_without(network, program, found):
        return list(found)
    alone = [residual for residual in found if _right_without(network, program, [residual])]
    return alone if _right_without(network, program, alone) else []


def that_can_move(network: nn.Module, program: ExportedProgram, chains: Sequence[Sequence[str]]) -> set[str]:
    """The blocks of those chains of which the later ones compute the same when each has moved up by one place.

    They do not if the network's code gives the places something of their own, a number or a mask.
    """
    long = [chain for chain in chains if len(chain) > 1]
    if _same_moved(network, program, long):
        return {path for chain in long for path in chain}
    return {path for chain in long if _same_moved(network, program, [chain]) for path in chain}


def _right_without(network: nn.Module, program: ExportedProgram, blocks: Sequence[Residual]) -> bool:
    if not blocks:
        return True
    expected = _Zeroed(program, network, {node for residual in blocks for node in residual.added}).answer()
    found = _output_with(network, program, emptied(network, (residual.path for residual in blocks)))
    return found is not None and computes_the_same(found, expected)


def _same_moved(network: nn.Module, program: ExportedProgram, chains: Sequence[Sequence[str]]) -> bool:
    if not chains:
        return True
    moved: dict[str, nn.Module] = {}
    for chain in chains:
        moved |= moved_up(network, chain, chain[1:])
    expected = _output_with(network, program, emptied(network, (chain[0] for chain in chains)))
    found = _output_with(network, program, moved)
    return expected is not None and found is not None and computes_the_same(found, expected)


class _Zeroed(fx.Interpreter):
    """Runs an exported graph with zeros for what some of its nodes make."""

    def __init__(self, program: ExportedProgram, network: nn.Module, zero: Collection[fx.Node]) -> None:
        super().__init__(program.graph_module)
        self.program, self.network, self.zero = program, network, zero

    def answer(self) -> Tensor:
        """The network's first output for the example."""
        signature = self.program.graph_signature
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        stored |= signature.inputs_to_lifted_tensor_constants
        values: dict[str, Any] = dict(self.program.constants)
        values |= dict(self.network.named_parameters(remove_duplicate=False))
        values |= dict(self.network.named_buffers(remove_duplicate=False))
        names = [node.name for node in self.program.graph.nodes if node.op == "placeholder"]
        example = _example(self.program, self.network)
        with torch.no_grad():
            inputs = (values[stored[name]] if name in stored else example for name in names)
            return first_output(self.run(*inputs, enable_io_processing=False))

    def run_node(self, n: fx.Node) -> Any:
        """The node's value, or zeros like it."""
        value = super().run_node(n)
        return torch.zeros_like(value) if n in self.zero else value


def _example(program: ExportedProgram, network: nn.Module) -> Tensor:
    (name,) = program.graph_signature.user_inputs
    (node,) = (node for node in program.graph.nodes if node.name == name)
    return example_for(network, shape_of(node)[1:]).clone()  # which code may change in place


def _output_with(network: nn.Module, program: ExportedProgram, modules: Mapping[str, nn.Module]) -> Tensor | None:
    """First output for the example with other modules in the network; None if it fails."""
    example = _example(program, network)
    with swapped(network, modules), torch.no_grad():
        try:
            return first_output(network(example))
        except Exception:  # the forward is the user's code, and may fail in any way
            return None
