"""MACs counted by PyTorch, of the operators that really run."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def counted_macs(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Of one example, in eval mode; fused operators, which the counter does not know, are run as plain ones."""
    plain = sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False)
    with plain[0], plain[1], FlopCounterMode(display=False) as counter, torch.no_grad():
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            network(torch.zeros(1, *shape))
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops() / 2
