"""Networks whose weights are no images' train as others do."""

import copy

import torch
from torch import nn

from pocketpipe.training.layout import channels_last


def test_weights_of_volumes_keep_their_form_and_images_change_it() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(2), nn.Unflatten(2, (2, 4)), nn.Conv2d(2, 3, 2))
    plain = copy.deepcopy(network)
    changed = channels_last(network)
    assert changed is network
    assert changed[3].weight.is_contiguous(memory_format=torch.channels_last)
    inputs = torch.randn(2, 1, 4, 4, 4)
    assert torch.allclose(changed(inputs), plain(inputs), atol=1e-6)
    changed(inputs).sum().backward()
    assert changed[0].weight.grad is not None
