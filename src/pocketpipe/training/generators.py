"""The global generators that code of the user's may draw from: PyTorch's, NumPy's and Python's."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Seed all of them."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def own_generators(gpus: Sequence[int]) -> Iterator[None]:
    """Put them back after the block, among them those of `gpus`; no other GPU is asked, which would start it."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)
