"""What sparsity cannot reach, in words."""

from __future__ import annotations

from pocketpipe.budget import Limits
from pocketpipe.compression.sparsity.layers import left_dense
from pocketpipe.errors import UserError
from pocketpipe.profile import NetworkProfile


def refuse_unreachable(profile: NetworkProfile, smallest: NetworkProfile, limits: Limits) -> None:
    """Raise UserError if not even `smallest` (what `profile` becomes at the lowest density) keeps `limits`."""
    before, after = profile.cost(), smallest.cost()
    stays = limits.only("macs", "peak_ram_bytes")
    if not stays.keeps(before):
        raise UserError(
            f"sparsity: {stays.over(before)}, and stay as they are: zeros save bytes, not MACs or RAM; put channels or "
            "blocks before it, or leave that out of the budget"
        )
    if not limits.keeps(after):
        dense = left_dense(profile)
        named = f"; left dense: {', '.join(list(dense)[:3])}{', ...' if len(dense) > 3 else ''}" if dense else ""
        raise UserError(
            f"sparsity: at the lowest density {limits.over(after)}; "
            f"reachable: compression {before.ratio_to(after)['compression']:.4g}{named}"
        )
