"""What a network is: its layers, and which of its channels can be removed, which only together, which not."""

from pocketpipe.compression.tracing.tracer import (
    Adapter,
    Trace,
    TracedGroup,
    exported,
    first_names_of,
    profile_of,
    trace,
)

__all__ = ["Adapter", "Trace", "TracedGroup", "exported", "first_names_of", "profile_of", "trace"]
