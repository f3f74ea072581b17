"""Shifts and flips against a plain loop, and their randomness against what is promised."""

import numpy as np
import torch

from pocketpipe.tasks.augmentation import random_flip, random_shift


def _images(count: int) -> torch.Tensor:
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(1, 255, (count, 3, 6, 5), np.uint8))


def test_each_shift_is_a_window_of_the_padded_image_and_all_occur() -> None:
    images = _images(300)
    shifted = random_shift(images, 2, torch.Generator().manual_seed(0))
    assert shifted.dtype == torch.uint8
    seen = set()
    for image, view in zip(images.numpy(), shifted.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
        windows = [(y, x) for y in range(5) for x in range(5) if np.array_equal(padded[:, y : y + 6, x : x + 5], view)]
        assert len(windows) == 1
        seen.add(windows[0])
    assert len(seen) == 25


def test_flips_mirror_about_half_of_the_images() -> None:
    images = _images(400)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    kept = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_the_generator_alone_decides() -> None:
    images = _images(20)
    torch.manual_seed(1)
    first = random_flip(random_shift(images, 2, torch.Generator().manual_seed(5)), torch.Generator().manual_seed(6))
    torch.manual_seed(2)
    second = random_flip(random_shift(images, 2, torch.Generator().manual_seed(5)), torch.Generator().manual_seed(6))
    assert torch.equal(first, second)
