"""LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling, as it is used today."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from pocketpipe.network import NETWORKS
from pocketpipe.networks.images import require_image
from pocketpipe.networks.initialization import initialize

ORIGINAL_SIDE, MNIST_SIDE = 32, 28


class LeNet(nn.Module):
    """Two 5x5 convolutions, each with pooling, and three linear layers."""

    def __init__(self, input_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        channels_in, height, width = input_shape
        side = min(height, width)
        # Unpadded at the original 32x32; smaller images are padded where they would lose too much.
        first, second = (2 if side < ORIGINAL_SIDE else 0), (2 if side < MNIST_SIDE else 0)
        self.conv1 = nn.Conv2d(channels_in, 6, 5, padding=first)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=second)
        left = [((length + 2 * first - 4) // 2 + 2 * second - 4) // 2 for length in (height, width)]
        self.fc1 = nn.Linear(16 * left[0] * left[1], 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> logits (N, outputs)."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2).flatten(1)
        logits: Tensor = self.fc3(functional.relu(self.fc2(functional.relu(self.fc1(x)))))
        return logits


@NETWORKS.register("lenet")
def lenet(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Input (channels, height, width), from 8x8 on."""
    return initialize(LeNet(require_image("lenet", input_shape), outputs))
