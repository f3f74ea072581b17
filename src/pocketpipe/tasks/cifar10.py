"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 in ten classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from pocketpipe.task import TASKS, Preprocessing, Split
from pocketpipe.tasks import cifar_files
from pocketpipe.tasks.augmentation import cutout, random_flip, random_shift
from pocketpipe.tasks.classification import ClassificationTask
from pocketpipe.tasks.splitting import stratified

if TYPE_CHECKING:
    import torch


class Cifar10(ClassificationTask):
    """Images uint8 (N, 3, 32, 32), classes in the published order; validation is a tenth of the training images."""

    input_shape = cifar_files.IMAGE_SHAPE
    labels = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    # The statistics that published CIFAR ResNet weights were trained with (they are ImageNet's).
    preprocessing = Preprocessing(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    def __init__(
        self,
        data_root: Path,
        *,
        limit: int | None = None,
        archive_md5: str = cifar_files.ARCHIVE_MD5,
        cutout: int = 0,
    ):
        self.data_root = data_root
        self.limit = limit
        self.cutout = cutout
        self.archive_md5 = archive_md5

    def source_digest(self) -> str:
        """Digest of the batch files or of the archive, whichever is read."""
        return cifar_files.content_digest(cifar_files.find_source(self.data_root))

    def read(self) -> tuple[Split, Split | None]:
        """The published training and test images, at most `limit` of each, the classes in equal shares."""
        source = cifar_files.find_source(self.data_root)
        train, test = cifar_files.read_batches(source, archive_md5=self.archive_md5)
        return self._limited(Split("CIFAR-10 training images", *train)), self._limited(
            Split("CIFAR-10 test images", *test)
        )

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Moved by up to four pixels and mirrored (He 2016); then a part is hidden, if that is asked for."""
        views = random_flip(random_shift(inputs, 4, generator), generator)
        return cutout(views, self.cutout, self.preprocessing, generator)

    def _limited(self, split: Split) -> Split:
        if self.limit is None or self.limit >= len(split):
            return split
        chosen: np.ndarray = stratified(split, self.limit / len(split), "limit")
        return split.take(chosen, name=f"{split.name} (limited from {len(split):,})")


@TASKS.register("cifar10")
def build(
    data_root: Path,
    *,
    limit: Annotated[int, Field(ge=100)] | None = None,
    archive_md5: str = cifar_files.ARCHIVE_MD5,
    cutout: Annotated[int, Field(ge=0, le=32)] = 0,
) -> Cifar10:
    """CIFAR-10 from `cifar-10-batches-py/` or `cifar-10-python.tar.gz` in `data_root`.

    limit: at most this many training and this many test images, for quick runs.
    archive_md5: of the archive, where yours is a repacked one.
    cutout: side in pixels of a square that each training view hides; for long trainings. 0: none.
    """
    return Cifar10(data_root, limit=limit, archive_md5=archive_md5, cutout=cutout)
