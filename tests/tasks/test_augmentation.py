"""Shifts, flips and holes against a plain loop, and their randomness against what is promised."""

import numpy as np
import torch

from pocketpipe.task import Preprocessing
from pocketpipe.tasks.augmentation import cutout, random_flip, random_shift


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


def test_each_hole_is_a_square_of_the_mean_colour_and_all_places_occur() -> None:
    colours = Preprocessing(scale=1 / 255, mean=(0.4, 0.2), std=(1.0, 1.0))
    images = torch.full((2000, 2, 5, 6), 255, dtype=torch.uint8)
    views = cutout(images, 3, colours, torch.Generator().manual_seed(0))
    assert views.dtype == torch.uint8
    holes = set()
    for view in views.numpy():
        hidden = view[0] != 255
        assert [set(channel[hidden]) for channel in view] == [{102}, {51}]
        assert (view[1][~hidden] == 255).all()
        holes.add(hidden.tobytes())
    rows, columns = np.mgrid[:5, :6]
    assert holes == {((abs(rows - y) <= 1) & (abs(columns - x) <= 1)).tobytes() for y in range(5) for x in range(6)}
