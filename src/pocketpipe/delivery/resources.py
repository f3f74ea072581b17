"""What a network in C would spend on an FPGA: estimates, before any tool has run. The formulas are the target's."""

from pocketpipe.doors import Value


class LayerResources(Value):
    """One operator as a circuit of its own."""

    name: str
    kind: str
    macs: int
    cycles: int
    dsp: int
    bram: int
    """Blocks of 18 kbit for weights, biases and factors."""
    bits: int | None = None
    """Of a signed accumulator that holds every sum of products or of a window, whatever the input; None for others."""

    @property
    def macs_per_cycle(self) -> float:
        """Products formed in a cycle, on average."""
        return self.macs / self.cycles if self.cycles else 0.0


class Resources(Value):
    """A network whose operators run one after the other, each on a circuit of its own."""

    unroll: int
    """Products that a circuit forms in a cycle."""
    clock_mhz: float
    layers: tuple[LayerResources, ...]
    buffer_bram: int
    """Blocks of 18 kbit for the working memory."""

    @property
    def macs(self) -> int:
        """Of one example."""
        return sum(layer.macs for layer in self.layers)

    @property
    def cycles(self) -> int:
        """Of one example."""
        return sum(layer.cycles for layer in self.layers)

    @property
    def dsp(self) -> int:
        """Multiplier blocks."""
        return sum(layer.dsp for layer in self.layers)

    @property
    def bram(self) -> int:
        """Blocks of 18 kbit."""
        return self.buffer_bram + sum(layer.bram for layer in self.layers)

    @property
    def examples_per_second(self) -> float:
        """One after the other, without overlap."""
        return self.clock_mhz * 1e6 / self.cycles
