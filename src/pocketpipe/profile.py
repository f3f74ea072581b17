"""NetworkProfile: what a network is. Traced once; everything that plans is a pure function of it."""

from collections.abc import Mapping
from math import prod

from pocketpipe.cost import Cost
from pocketpipe.doors import Value

Widths = Mapping[str, int]
"""Channels kept in each group, by the group's name; a group that is not named keeps all."""


class Axis(Value):
    """Length of one weight axis: `fixed` positions plus, for each group, `positions` a channel.

    >>> Axis(fixed=2, groups={"stem": 16}).size({"stem": 3})
    50
    """

    fixed: int = 0
    groups: dict[str, int] = {}

    def size(self, widths: Widths) -> int:
        """Positions left when each group is as wide as `widths` says."""
        return self.fixed + sum(positions * widths[group] for group, positions in self.groups.items())


class ChannelGroup(Value):
    """Channels that must be removed together: channel i of every member is one decision."""

    name: str
    channels: int
    members: tuple[str, ...]
    """Names of the layers that produce these channels."""
    slimmable: bool = True
    reason: str | None = None
    """Why it is left whole, naming the node, where it is not slimmable."""


class Layer(Value):
    """A layer with a weight: its MACs are `positions` times the elements of the weight."""

    name: str
    operator: str
    """conv2d, linear, ..."""
    weight: tuple[Axis, ...]
    bias: Axis | None = None
    """Set if the exported layer has a bias (its own, or from the BatchNorm folded into it)."""
    positions: int
    """Output positions of one example at which the weight is applied, summed over calls."""
    output_shape: tuple[int, ...]

    def parameters(self, widths: Widths) -> int:
        """Elements of weight and bias as exported."""
        return self._weight_elements(widths) + (self.bias.size(widths) if self.bias else 0)

    def macs(self, widths: Widths) -> int:
        """Multiply-accumulates of one example."""
        return self.positions * self._weight_elements(widths)

    def _weight_elements(self, widths: Widths) -> int:
        return prod(axis.size(widths) for axis in self.weight)


class NetworkProfile(Value):
    """Layers and channel groups of one network, and what it costs at any widths of its groups.

    >>> layer = Layer(name="conv", operator="conv2d", positions=64, output_shape=(8, 8, 8),
    ...               weight=(Axis(groups={"conv": 1}), Axis(fixed=3), Axis(fixed=9)))
    >>> group = ChannelGroup(name="conv", channels=8, members=("conv",))
    >>> profile = NetworkProfile(input_shape=(3, 8, 8), layers=(layer,), groups=(group,))
    >>> profile.cost().macs, profile.cost({"conv": 4}).macs
    (13824, 6912)
    """

    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    groups: tuple[ChannelGroup, ...]
    file_overhead: int = 0
    """Bytes of the exported file beside its parameters: graph, names, shapes (measured on the dense export)."""
    bytes_per_parameter: int = 4

    @property
    def slimmable(self) -> tuple[ChannelGroup, ...]:
        """The groups that a plan may thin."""
        return tuple(group for group in self.groups if group.slimmable)

    def widths(self, chosen: Widths | None = None) -> dict[str, int]:
        """Channels of every group when `chosen` is carried out."""
        return {group.name: (chosen or {}).get(group.name, group.channels) for group in self.groups}

    def cost(self, chosen: Widths | None = None) -> Cost:
        """Predicted cost when the groups are as wide as `chosen` says (default: as they are)."""
        widths = self.widths(chosen)
        by_layer = {layer.name: layer.macs(widths) for layer in self.layers}
        parameters = sum(layer.parameters(widths) for layer in self.layers)
        return Cost(
            macs=sum(by_layer.values()),
            parameters=parameters,
            file_bytes=self.file_overhead + self.bytes_per_parameter * parameters,
            macs_by_layer=by_layer,
        )

    def narrowed(self, chosen: Widths) -> "NetworkProfile":
        """The profile of the network after `chosen` is carried out."""
        groups = tuple(
            group.model_copy(update={"channels": chosen.get(group.name, group.channels)}) for group in self.groups
        )
        return self.model_copy(update={"groups": groups})
