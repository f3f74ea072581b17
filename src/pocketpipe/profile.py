"""NetworkProfile: what a network is. Traced once; everything that plans is a pure function of it."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from pocketpipe.buffers import (
    Axis,
    Buffer,
    MadeInside,
    Widths,
    end_bytes,
    moved,
    peak_bytes,
    with_axes,
    without_block,
)
from pocketpipe.cost import Cost
from pocketpipe.doors import Value
from pocketpipe.layer import Layer, bits_of_index, exact_share, matches

__all__ = [
    "Axis",
    "Block",
    "Buffer",
    "ChannelGroup",
    "Layer",
    "MadeInside",
    "NetworkProfile",
    "Widths",
    "bits_of_index",
    "exact_share",
    "matches",
]

CODE_BYTES, CALL_BYTES = 1536, 68
"""What a device's flash holds beside the weights, in a prediction: kernels, and the calls of each operator. A Cortex-M
has 1,506 bytes of them for LeNet (8 tensors between operators), 1,937 for ResNet-8 (19), 3,305 for MobileNetV1 (30),
8,049 for a GRU (135), and 2,292 with tables of weights for MLPerf Tiny's ResNet-8 (15)."""
UNTRACED = "products that tracing does not know"
"""Called so among the layers."""
UNKNOWN_CODE_BYTES = 4 * 1024
"""The same where operators are not known."""
STACK_BYTES = 2 * 1024
"""Of RAM, in a prediction and where no linker script reserves it."""


class ChannelGroup(Value):
    """Channels that must be removed together: channel i of every member is one decision."""

    name: str
    channels: int
    members: tuple[str, ...]
    """Names of the layers that produce these channels."""
    slimmable: bool = True
    reason: str | None = None
    """Why it is left whole, naming the node, where it is not slimmable."""


class Block(Value):
    """A module that can be taken out whole: its input is added to what it computes."""

    name: str
    """The module's path."""
    layers: tuple[str, ...]
    """The layers that go with it."""
    follows: str | None = None
    """The block whose output is this one's input and is read by nothing else."""
    made: MadeInside | None = None
    """Its own among the profile's buffers."""


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
    packed_overhead: int | None = None
    """The same of its packed form; None = not known, and then taken to be as large."""
    blocks: tuple[Block, ...] = ()
    taken_out: tuple[str, ...] = ()
    """Paths at which a block was before it was taken out, ascending."""
    buffers: tuple[Buffer, ...] = ()
    """The tensors between operators, in the order in which they are made; the first is the input."""
    activation_bytes: int = 4
    """Of an element of these."""
    transport_bytes: int | None = None
    """Of the network as it is, where its weights (zeros, few values) make its packed file clearly smaller."""

    @property
    def slimmable(self) -> tuple[ChannelGroup, ...]:
        """The groups that a plan may thin."""
        return tuple(group for group in self.groups if group.slimmable)

    def in_file_of(self, size: int, packed_overhead: int | None = None) -> "NetworkProfile":
        """The same, where the network as it is makes an exported file of `size` bytes, and a packed one that has so
        many beside its tensors."""
        overhead = size - self.model_copy(update={"file_overhead": 0, "packed_overhead": None}).cost().file_bytes
        return self.model_copy(update={"file_overhead": max(overhead, 0), "packed_overhead": packed_overhead})

    def with_macs_of(self, measured: int) -> "NetworkProfile":
        """The same, where the exported file has so many MACs: more are products that tracing knows no rule for, and
        that no plan makes smaller."""
        missing = measured - self.cost().macs
        if missing <= 0:
            return self
        unknown = Layer(name=UNTRACED, operator="matmul", weight=(), positions=missing, output_shape=())
        return self.model_copy(update={"layers": (*self.layers, unknown)})

    def packed_to(self, size: int) -> "NetworkProfile":
        """The same, where the network as it is packs to `size` bytes; noted if that saves more than the graph takes."""
        clearly = self.cost().file_bytes - size > self.file_overhead
        return self.model_copy(update={"transport_bytes": size}) if clearly else self

    def as_it_is(self) -> Cost:
        """Cost of the network as it is: what relative budgets are against."""
        cost = self.cost()
        if self.transport_bytes is None:
            return cost
        return cost.model_copy(update={"file_bytes": self.transport_bytes})

    def widths(self, chosen: Widths | None = None) -> dict[str, int]:
        """Channels of every group when `chosen` is carried out."""
        return {group.name: (chosen or {}).get(group.name, group.channels) for group in self.groups}

    def cost(self, chosen: Widths | None = None) -> Cost:
        """Predicted cost when the groups are as wide as `chosen` says (default: as they are)."""
        widths = self.widths(chosen)
        costs = [layer.cost(widths) for layer in self.layers]
        by_layer = {layer.name: cost.macs for layer, cost in zip(self.layers, costs, strict=True)}
        return Cost(
            macs=sum(by_layer.values()),
            parameters=sum(cost.parameters for cost in costs),
            file_bytes=self._transport_overhead + sum(cost.stored_bytes for cost in costs),
            resident_bytes=self.file_overhead + sum(cost.resident_bytes for cost in costs),
            flash_bytes=self._code_bytes + sum(cost.flash_bytes for cost in costs),
            peak_ram_bytes=self._ram_bytes(widths),
            macs_by_layer=by_layer,
        )

    @property
    def _transport_overhead(self) -> int:
        """That of the smaller file, which is the delivered one."""
        packed = self.file_overhead if self.packed_overhead is None else self.packed_overhead
        return min(self.file_overhead, packed)

    @property
    def _code_bytes(self) -> int:
        return CODE_BYTES + CALL_BYTES * len(self.buffers) if self.buffers else UNKNOWN_CODE_BYTES

    def _ram_bytes(self, widths: Widths) -> int | None:
        """Working memory, what enters and leaves, and stack; None if the buffers are not known."""
        if not self.buffers:
            return None
        stored = (self.buffers, widths, self.activation_bytes)
        return peak_bytes(*stored) + end_bytes(*stored) + STACK_BYTES

    def narrowed(self, chosen: Widths) -> "NetworkProfile":
        """The profile of the network after `chosen` is carried out."""
        groups = tuple(
            group.model_copy(update={"channels": chosen.get(group.name, group.channels)}) for group in self.groups
        )
        slim = self.model_copy(update={"groups": groups})
        before, after = self.widths(), slim.widths()
        return slim.model_copy(update={"layers": tuple(layer.narrowed(before, after) for layer in self.layers)})

    @property
    def runs(self) -> tuple[tuple[str, ...], ...]:
        """The blocks, by name, that follow each other directly and are built alike: which of a run go makes no
        difference to the cost, but for what a mask left of their weights."""
        runs: list[list[str]] = []
        forms = {block.name: self._form(block) for block in self.blocks}
        for block in self.blocks:
            run = next((run for run in runs if run[-1] == block.follows), None)
            if run is not None and forms[run[-1]] == forms[block.name]:
                run.append(block.name)
            else:
                runs.append([block.name])
        return tuple(tuple(run) for run in runs)

    def _form(self, block: Block) -> tuple[object, ...]:
        """All that the profile knows of a block, by names that begin with the block's own path."""
        inside = set(block.layers)

        def local(name: str) -> str:
            return name.removeprefix(f"{block.name}.")

        def local_axis(axis: Axis) -> Axis:
            return axis.model_copy(update={"groups": {local(group): count for group, count in axis.groups.items()}})

        layers = [  # whatever is zero in them: a share of it by layer is no part of how a block is built
            _with_axes(layer, local_axis, local(layer.name) if layer.weight else layer.operator).model_copy(
                update={"density": 1.0}
            )
            for layer in self.layers
            if layer.name in inside
        ]
        groups = [
            (local(group.name), group.channels, tuple(map(local, group.members)), group.slimmable)
            for group in self.groups
            if inside.issuperset(group.members)
        ]
        return (*layers, *groups)

    def without(self, names: Collection[str]) -> "NetworkProfile":
        """The profile of the network without the blocks of these names: as tracing that network finds it.

        Where a channel stays because of a node in one of these blocks, it stays here, though it would not have to.
        Raises KeyError for a name that is no block.
        """
        known = {block.name: block for block in self.blocks}
        gone = {layer for name in names for layer in known[name].layers}
        groups, renamed = _groups_without(self.groups, gone)
        channels = {group.name: group.channels for group in self.groups}

        def renamed_axis(axis: Axis) -> Axis:
            made = {renamed[group]: count for group, count in axis.groups.items() if group in renamed}
            unmade = sum(count * channels[group] for group, count in axis.groups.items() if group not in renamed)
            return Axis(fixed=axis.fixed + unmade, groups=made)

        layers = (_with_axes(layer, renamed_axis, layer.name) for layer in self.layers if layer.name not in gone)
        left = (
            block.model_copy(update={"follows": _last_left(block.follows, known, names)})
            for block in self.blocks
            if block.name not in names
        )
        buffers, blocks = _buffers_without(self.buffers, [known[name] for name in names], tuple(left))
        return self.model_copy(
            update={
                "layers": tuple(layers),
                "groups": groups,
                "blocks": blocks,
                "taken_out": tuple(sorted({*self.taken_out, *names})),
                "buffers": with_axes(buffers, renamed_axis),
            }
        )

    def products(self, but: Sequence[str] = ()) -> dict[str, tuple[int, ...]]:
        """Shapes of weights that are multiplied by, in graph order, but those that a pattern of `but` names."""
        widths = self.widths()
        return {
            layer.name: tuple(axis.size(widths) for axis in layer.weight)
            for layer in self.layers
            if layer.multiplies and not matches(layer.name, but)
        }

    def idle(self, patterns: Iterable[str]) -> list[str]:
        """Those of `patterns` that name no layer, nor one of a block that was taken out."""
        return [
            pattern
            for pattern in patterns
            if not (self.took_out(pattern) or any(matches(layer.name, [pattern]) for layer in self.layers))
        ]

    def took_out(self, pattern: str) -> bool:
        """Whether what a pattern (or name) stands for lies where a block was.

        >>> NetworkProfile(input_shape=(3,), layers=(), groups=(), taken_out=("layer1.2",)).took_out("layer1.2.conv?")
        True
        """
        parts = pattern.split(".")

        def lies_in(path: str) -> bool:
            place = path.split(".")
            by_parts = len(parts) > len(place) and all(map(fnmatchcase, place, parts))
            return by_parts or fnmatchcase(f"{path}.", pattern)  # a star crosses dots

        return any(map(lies_in, self.taken_out))

    def layer(self, name: str) -> Layer:
        """The layer of that name. Raises KeyError."""
        return {layer.name: layer for layer in self.layers}[name]

    def with_layers(self, changed: "Mapping[str, Mapping[str, object]]") -> "NetworkProfile":
        """The profile with some fields of some layers changed: `{"conv1": {"density": 0.1}}`."""
        layers = tuple(
            layer.model_copy(update=dict(changed[layer.name])) if layer.name in changed else layer
            for layer in self.layers
        )
        return self.model_copy(update={"layers": layers})


def _with_axes(layer: Layer, change: Callable[[Axis], Axis], name: str) -> Layer:
    return layer.model_copy(
        update={
            "name": name,
            "weight": tuple(map(change, layer.weight)),
            "bias": None if layer.bias is None else change(layer.bias),
            "over": tuple(map(change, layer.over)),
        }
    )


def _groups_without(
    groups: tuple[ChannelGroup, ...], gone: Collection[str]
) -> tuple[tuple[ChannelGroup, ...], dict[str, str]]:
    """(groups that still have a member, their names before -> now): a group is called by its first member."""
    left: list[ChannelGroup] = []
    renamed: dict[str, str] = {}
    for group in groups:
        members = tuple(member for member in group.members if member not in gone)
        if not members:
            continue
        same_first = 1 + sum(other.members[0] == members[0] for other in left)
        renamed[group.name] = members[0] if same_first == 1 else f"{members[0]}:{same_first}"
        left.append(group.model_copy(update={"name": renamed[group.name], "members": members}))
    return tuple(left), renamed


def _buffers_without(
    buffers: tuple[Buffer, ...], gone: Sequence[Block], left: tuple[Block, ...]
) -> tuple[tuple[Buffer, ...], tuple[Block, ...]]:
    """(the buffers without those of blocks that go, the other blocks with theirs)."""
    places = {block.name: block.made for block in (*gone, *left) if block.made is not None}
    for block in gone:
        if block.name in places:
            buffers, now = without_block(buffers, places[block.name])
            places = {name: moved(made, now) for name, made in places.items()}
    return buffers, tuple(block.model_copy(update={"made": places.get(block.name)}) for block in left)


def _last_left(name: str | None, blocks: Mapping[str, Block], gone: Collection[str]) -> str | None:
    """The block `name`, or what it followed, and so on: the first that is not gone."""
    while name is not None and name in gone:
        name = blocks[name].follows
    return name
