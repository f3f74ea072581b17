"""Cost: what a network takes from a device, predicted from a profile or measured on a file."""

from pocketpipe.doors import Value


class Cost(Value):
    """MACs of one example, parameters, bytes of the file; `source` says whether predicted or measured, and on what.

    >>> dense = Cost(macs=100, parameters=10, file_bytes=50, source="predicted")
    >>> slim = Cost(macs=40, parameters=5, file_bytes=20, source="predicted")
    >>> dense.ratio_to(slim)
    {'speedup': 2.5, 'compression': 2.5}
    """

    macs: int
    parameters: int
    file_bytes: int
    """Bytes in transport: the delivered file, packed if that is smaller."""
    transport_file: str | None = None
    """Name of the file that has `file_bytes`, where it was measured."""
    resident_bytes: int | None = None
    """Bytes of the same unpacked, as it lies in memory; None = not measured."""
    flash_bytes: int | None = None
    """Bytes that lie on a device: code and weights, zeros too; None = not known."""
    peak_ram_bytes: int | None = None
    """The most that one inference takes: tensors between operators, what enters and leaves, stack; None = not known."""
    latency_ms: dict[str, float] = {}
    """Median latency at batch 1 by target; only what was measured."""
    macs_by_layer: dict[str, int] = {}
    source: str = "predicted"
    """"predicted", or "measured on FILE"."""

    def ratio_to(self, smaller: "Cost") -> dict[str, float]:
        """How many times `smaller` is smaller, in a budget's terms."""
        return {
            "speedup": self.macs / max(1, smaller.macs),  # all may lie in blocks that are gone
            "compression": self.file_bytes / max(1, smaller.file_bytes),
        }
