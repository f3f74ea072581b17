"""FPGM: filters near the geometric median of their layer say what the others say already (He et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketpipe.compression.importance.norms import rows_of
from pocketpipe.compression.members import members
from pocketpipe.compression.tracing import TracedGroup


def distances(network: nn.Module, group: TracedGroup) -> Tensor:
    """Sum of the distances from each channel's filter to all others of its layer (He et al. 2019, eq. 4): (channels,).

    Summed over the layers that make the group, each at a mean of 1.
    """
    total = torch.zeros(group.channels, dtype=torch.float64)
    for member in members(network, group):
        if member.role == "makes":
            filters = rows_of(network, member)[member.indices].flatten(1)
            sums = torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
            total += sums / sums.mean().clamp_min(1e-30)
    return total
