"""How stored bytes enter a network: a table for each channel, preprocessing inside."""

import numpy as np

from pocketpipe.task import Preprocessing


def byte_tables(preprocessing: Preprocessing) -> np.ndarray:
    """float32 (channels, 256): the network's input for each stored byte.

    A row for each index of an example's first axis; one for all where preprocessing is the same for all.
    """
    channels = max(len(preprocessing.mean), len(preprocessing.std))
    stored = np.repeat(np.arange(256, dtype=np.uint8)[:, None], channels, axis=1)
    return np.ascontiguousarray(preprocessing(stored).T)
