"""Start a deep ResNet for small images from a trained shallow one: what it computes at first is the same.

    python benchmarks/deepen.py SHALLOW.safetensors DEEP.safetensors --blocks 9

The shallow network's blocks are spread evenly over the stage; each block between them is new and adds nothing yet,
because the scale of its last BatchNorm is 0 (Goyal et al. 2017, section 5.1, as a start; Chen et al. 2016, Net2Net,
section 2.3, for growing in depth). Its training then begins at the shallow one's accuracy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pocketpipe.networks.initialization import initialize
from pocketpipe.networks.resnet_small import STAGES, SmallResNet

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shallow", type=Path)
    parser.add_argument("deep", type=Path)
    parser.add_argument("--blocks", type=int, required=True, help="a stage: 9 = ResNet-56")
    asked = parser.parse_args()
    save_file(deepened(load_file(asked.shallow), asked.blocks), asked.deep)


def deepened(shallow: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """Weights of a network of `blocks` blocks a stage that computes what the shallow one computes.

    >>> from pocketpipe.networks.resnet_small import resnet20, resnet56
    >>> small, large = resnet20((3, 32, 32), 10).eval(), resnet56((3, 32, 32), 10).eval()
    >>> _ = large.load_state_dict(deepened(small.state_dict(), 9))
    >>> image = torch.randn(2, 3, 32, 32)
    >>> torch.allclose(small(image), large(image), atol=1e-5)
    True
    """
    torch.manual_seed(SEED)
    outputs, channels_in = shallow["linear.weight"].shape[0], shallow["conv1.weight"].shape[1]
    deep = initialize(SmallResNet(channels_in, outputs, blocks)).state_dict()
    there = 1 + max(int(name.split(".")[1]) for name in shallow if name.startswith("layer1."))
    apart = blocks // there
    for name, values in shallow.items():
        stage, _, inside = name.partition(".")
        if stage.startswith("layer"):
            index, _, inside = inside.partition(".")
            name = f"{stage}.{int(index) * apart}.{inside}"
        deep[name] = values.to(deep[name].dtype)
    for number in range(1, len(STAGES) + 1):
        for added in set(range(blocks)) - {apart * each for each in range(there)}:
            deep[f"layer{number}.{added}.bn2.weight"].zero_()
    return deep


if __name__ == "__main__":
    main()
