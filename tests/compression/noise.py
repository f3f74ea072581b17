"""A task and data for steps that ask little of either: images of noise in the size of digits, never augmented."""

from __future__ import annotations

from typing import Any

import numpy as np

from compression.zoo import DIGIT
from pocketpipe.task import Preprocessing, Split, Task
from training.samples import Blobs


class Noise(Blobs):
    input_shape = DIGIT
    labels = tuple("0123456789")
    preprocessing = Preprocessing()
    augment, augment_both = Task.augment, Task.augment_both


TASK = Noise()
NO_DATA: Any = None
SOME = Split("noise", np.random.default_rng(0).random((32, *DIGIT), np.float32), np.zeros(32, np.int64))
