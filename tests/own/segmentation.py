"""A user's own segmentation: where in a noisy picture the bright box lies, by a small U-Net."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketpipe.task import Preprocessing, Split, Splits, Task

SIDE, COUNT = 16, 320
WITHIN = 0.02
"""Of a picture: so many pixels may be on the other side of a border and two masks mean the same."""


class Boxes(Task):
    """Pictures (3, 16, 16) uint8, masks (16, 16) int64; the metric is the intersection over union of each picture."""

    input_shape = (3, SIDE, SIDE)
    labels = ("background", "box")
    preprocessing = Preprocessing(scale=1 / 255, mean=(0.4,), std=(0.25,))
    metric_name = "iou"

    def source_digest(self) -> str:
        return hashlib.sha256(f"boxes {COUNT}".encode()).hexdigest()

    def load(self, *, seed: int, holdout: str | None) -> tuple[Splits, Split]:
        pictures, masks = drawn(np.random.default_rng(3))
        whole = Split(f"{COUNT} boxes", pictures, masks)
        order = np.random.default_rng(0).permutation(COUNT)
        test, rest = order[:60], np.random.default_rng(seed).permutation(order[60:])
        splits = Splits(whole.take(rest[40:], "train, 220 boxes"), whole.take(rest[:40], "val, 40 boxes"))
        return splits, whole.take(test, "test, 60 boxes")

    def augment_both(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mirrored at random, the mask with the picture."""
        mirrored = torch.rand(len(inputs), generator=generator, device=generator.device) < 0.5
        flipped = torch.where(mirrored[:, None, None, None], inputs.flip(-1), inputs)
        return flipped, torch.where(mirrored[:, None, None], targets.flip(-1), targets)

    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy and Dice, whose views want outputs that lie in order."""
        box = outputs.softmax(1)[:, 1].contiguous().view(len(outputs), -1)
        true = targets.view(len(targets), -1).float()
        dice = 1 - (2 * (box * true).sum(1) + 1) / (box.sum(1) + true.sum(1) + 1)
        flat = functional.cross_entropy(outputs.view(len(outputs), 2, -1), targets.view(len(targets), -1))
        return flat + dice.mean()

    def scores(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        found, true = outputs.argmax(1) == 1, targets == 1
        both, either = ((found & true).sum((1, 2)), (found | true).sum((1, 2)))
        return np.where(either == 0, 1.0, both / np.maximum(either, 1))  # nothing there, and nothing found: right

    def metric_by_class(self, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Small and large boxes."""
        scores, sizes = self.scores(outputs, targets), (targets == 1).sum((1, 2))
        return {name: float(scores[part].mean()) for name, part in (("small", sizes < 40), ("large", sizes >= 40))}

    def agreement(self, outputs: np.ndarray, reference: np.ndarray) -> float:
        other = (outputs.argmax(1) != reference.argmax(1)).mean((1, 2))
        return float((other <= WITHIN).mean())


def drawn(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 3, 16, 16) uint8 and masks (N, 16, 16) int64."""
    masks = np.zeros((COUNT, SIDE, SIDE), np.int64)
    for mask in masks:
        height, width = generator.integers(4, 11, 2)
        top, left = generator.integers(0, SIDE - height), generator.integers(0, SIDE - width)
        mask[top : top + height, left : left + width] = 1
    noise = generator.integers(0, 120, (COUNT, 3, SIDE, SIDE))
    return (noise + 90 * masks[:, None]).astype(np.uint8), masks


class UNet(nn.Module):
    """Down once, up once, what was left behind joins again."""

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        self.enter = _convolution(channels, width)
        self.down = _convolution(width, 2 * width, stride=2)
        self.bottom = _convolution(2 * width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join = _convolution(2 * width, width)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        entered = self.enter(pictures)
        risen = functional.relu(self.up(self.bottom(self.down(entered))))
        result: Tensor = self.head(self.join(torch.cat([risen, entered], 1)))
        return result


def _convolution(channels: int, outputs: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def build(data_root: Path) -> Boxes:
    """The task; nothing is read from `data_root`."""
    return Boxes()


def unet(input_shape: tuple[int, ...], outputs: int, *, width: int = 12) -> nn.Module:
    """The network."""
    return UNet(input_shape[0], outputs, width)
