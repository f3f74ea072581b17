"""How a share of a split is chosen: evenly over the classes, or by content so that growing data keeps its splits."""

import hashlib

import numpy as np

from pocketpipe.task import Split


def stratified(split: Split, share: float, salt: str) -> np.ndarray:
    """Indices (sorted) of `share` of the examples: the same share of every class, at least one of each class that
    has two or more, and never all.

    For data that does not grow: chosen at random from `salt` alone.

    >>> tens = Split("tens", np.arange(20), np.repeat([0, 1], 10))
    >>> np.bincount(tens.targets[stratified(tens, 0.3, "val 0")]).tolist()
    [3, 3]
    """
    random = np.random.default_rng(list(salt.encode()))
    classes, sizes = np.unique(split.targets, return_counts=True)
    # Rounding the running total, not each class, makes the whole come out right too.
    counts = np.diff(np.rint(share * np.cumsum(sizes)).astype(int), prepend=0)
    chosen = [
        random.permutation(np.flatnonzero(split.targets == label))[: np.clip(count, min(1, size - 1), size - 1)]
        for label, count, size in zip(classes, counts, sizes, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def by_content(split: Split, share: float, salt: str) -> np.ndarray:
    """Indices (sorted) of about `share` of the examples, each by a hash of its content; at least one of each class that
    has two or more.

    For data that grows: an example stays where it is when others are added, so no later training run learns
    from what an earlier one tested on, and copies of one example never straddle two splits. The exception are
    classes of a few examples, where chance alone would leave a split without any: of three, one is chosen.

    >>> few = Split("few", np.arange(50), np.zeros(50, int))
    >>> more = Split("more", np.arange(100), np.zeros(100, int))
    >>> chosen = by_content(more, 0.2, "test")
    >>> np.array_equal(by_content(few, 0.2, "test"), chosen[chosen < 50])
    True
    """
    places = np.array([_place(example, salt) for example in split.inputs])
    chosen = []
    for label in np.unique(split.targets):
        members = np.flatnonzero(split.targets == label)
        most = min(max(len(members) - 2, 1), len(members) - 1)
        count = np.clip((places[members] < share).sum(), min(1, most), most)
        chosen.append(members[np.argsort(places[members], kind="stable")[:count]])
    return np.sort(np.concatenate(chosen))


def by_content_alone(inputs: np.ndarray, share: float, salt: str) -> np.ndarray:
    """Indices (sorted) of about `share` of the examples (N, ...), each by a hash of its content, whatever its target.

    For data that grows in a task without classes (masks, numbers), whose `load` draws its splits itself.

    >>> few, more = np.arange(50), np.arange(100)
    >>> chosen = by_content_alone(more, 0.2, "test")
    >>> np.array_equal(by_content_alone(few, 0.2, "test"), chosen[chosen < 50])
    True
    """
    return np.flatnonzero([_place(example, salt) < share for example in inputs])


def _place(example: np.ndarray, salt: str) -> float:
    """Where in 0..1 the content of `example` falls; evenly distributed, unrelated between salts."""
    digest = hashlib.sha256(salt.encode() + np.ascontiguousarray(example).tobytes()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
