"""Networks as others publish them, thinned: is the slim network the masked one, and does the profile know its MACs?

    pip install timm torchvision; python benchmarks/published_networks.py [--pixels 64] [NAME ...]

Names are timm's, or torchvision's after `torchvision:`. Random weights of seed 0, vectors and statistics drawn as well
so that nothing is right by luck; images of `--pixels`, or larger where a network wants it. Of every group that can be
thinned between half and all channels stay. Prints a Markdown table; a network that fails is a row of its own.
"""

from __future__ import annotations

import argparse
import random
import warnings
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pocketpipe.compression.slimming import Kept, masked, slim
from pocketpipe.compression.tracing import Trace, trace

NAMES = [
    "torchvision:deeplabv3_mobilenet_v3_large", "torchvision:googlenet", "torchvision:shufflenet_v2_x0_5",
    "torchvision:swin_v2_t",
    "convmixer_768_32", "deit_tiny_patch16_224", "densenet121", "dla46x_c", "dpn48b", "efficientformer_l1",
    "efficientvit_b0", "fasternet_t0", "fastvit_s12", "ghostnet_050", "gmixer_12_224", "hardcorenas_b",
    "hrnet_w18_small", "inception_v4", "lcnetv2_small", "legacy_seresnet18", "levit_128s", "mobilenetv3_small_050",
    "mobilevit_xxs", "mvitv2_tiny", "nasnetalarge", "poolformer_s12", "regnetx_002", "repvit_m1", "res2net50_14w_8s",
    "resnest14d", "resnetv2_18", "rexnet_100", "selecsls42", "skresnet18", "swin_tiny_patch4_window7_224",
    "test_convnext", "test_efficientnet", "test_resnet", "test_vit", "xception41p",
]  # fmt: skip
"""One of each family, the small ones."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--pixels", type=int, default=64)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| network | pixels | MACs, M | groups thinned, of | trace s | slim - masked | MACs as counted |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for name in asked.names:
        try:
            print(row(name, asked.pixels), flush=True)
        except Exception as error:  # whatever a network's own code raises is a finding
            print(f"| {name} | {type(error).__name__}: {str(error).splitlines()[0][:100]} |", flush=True)


def row(name: str, pixels: int) -> str:
    """One network's line."""
    network, shape = built(name, pixels)
    started = perf_counter()
    traced = trace(network, shape)
    seconds = perf_counter() - started
    kept = some_of_each(traced)
    slimmed = slim(network, traced, kept)
    predicted = traced.profile().cost({group: len(channels) for group, channels in kept.items()}).macs
    same = "yes" if counted(slimmed, shape) == predicted else f"{counted(slimmed, shape) / predicted:.4f} of predicted"
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        found, expected = slimmed.double()(x), masked(network.double(), traced, kept)(x)
        if (network(x) - expected).abs().max() < 1e-4 * expected.abs().max():
            raise ValueError("what goes does not show in the outputs")
    difference = float((found - expected).abs().max() / expected.abs().max())
    macs = traced.profile().cost().macs / 1e6
    groups = f"{len(kept)}, {len(traced.groups)}"
    return f"| {name} | {shape[-1]} | {macs:,.0f} | {groups} | {seconds:.1f} | {difference:.0e} | {same} |"


def built(name: str, pixels: int) -> tuple[nn.Module, tuple[int, ...]]:
    """(the network in eval mode, looking as if it was trained; the shape of its input). Raises what it raises."""
    failed: Exception | None = None
    for side in (pixels, 96, 128, 224, 256):
        try:
            torch.manual_seed(0)
            network = created(name, side).eval()
            with torch.no_grad():
                network(torch.zeros(1, 3, side, side))
            return trained_looking(network), (3, side, side)
        except Exception as error:
            failed = error
    assert failed is not None
    raise failed


def created(name: str, side: int) -> nn.Module:
    """With ten classes; for images of that side, where the network wants to know."""
    if name.startswith("torchvision:"):
        from torchvision import models

        options = {"weights": None, "num_classes": 10, **_without_downloads(name)}
        network: nn.Module = models.get_model(name.partition(":")[2], **options)
        return Segmented(network) if "deeplab" in name or "lraspp" in name else network
    import timm

    try:
        made: nn.Module = timm.create_model(name, num_classes=10, img_size=side)
    except TypeError:
        made = timm.create_model(name, num_classes=10)
    return made


def _without_downloads(name: str) -> dict[str, Any]:
    if "googlenet" in name or "inception" in name:
        return {"init_weights": False, "aux_logits": False}
    return {"weights_backbone": None} if "deeplab" in name or "lraspp" in name else {}


class Segmented(nn.Module):
    """A segmentation network's map, without the dictionary around it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(x)["out"]
        return found


def trained_looking(network: nn.Module) -> nn.Module:
    """Vectors, scales and statistics drawn: none at its initial zero or one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in vectors(network):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network


def vectors(network: nn.Module) -> Iterator[Tensor]:
    """Parameters of one axis, or zero as some heads are at first, and running statistics."""
    yield from (parameter for parameter in network.parameters() if parameter.dim() < 2 or not parameter.any())
    yield from (buffer for name, buffer in network.named_buffers() if name.endswith(("running_mean", "running_var")))


def some_of_each(traced: Trace) -> Kept:
    """At least half of the channels of every group that can be thinned, and not all."""
    chance = random.Random(1)
    kept = {}
    for group in traced.groups:
        if group.slimmable:
            count = chance.randint(max(1, group.channels // 2), group.channels - 1)
            kept[group.name] = sorted(chance.sample(range(group.channels), count))
    return kept


def counted(network: nn.Module, shape: tuple[int, ...]) -> float:
    """MACs of one example by PyTorch's counter."""
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with plain, torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape))
    macs: float = counter.get_total_flops() / 2
    return macs


if __name__ == "__main__":
    main()
