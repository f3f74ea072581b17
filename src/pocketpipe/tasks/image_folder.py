"""Your own images: a folder with one folder for each class, `class/name.png`, any format that Pillow reads."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from pocketpipe.errors import Mistakes, UserError
from pocketpipe.hashing import file_digest
from pocketpipe.task import TASKS, Preprocessing, Split, Splits
from pocketpipe.tasks.augmentation import cutout, random_flip, random_shift
from pocketpipe.tasks.classification import ClassificationTask
from pocketpipe.tasks.splitting import by_content

if TYPE_CHECKING:
    import torch
    from PIL import Image

Colour = Literal["rgb", "grey"]

IMAGES_NEEDED = 3
"""Of each class: one to learn from, one to choose by, one to test on."""
MISTAKES_SHOWN = 20


class ImageFolder(ClassificationTask):
    """Images uint8 (N, 3 or 1, size, size): cropped to a square around the centre, then resized.

    Splits go by content, so that the folder may grow: an image stays in its split, copies stay together.
    """

    pick = staticmethod(by_content)

    def __init__(
        self,
        folder: Path,
        *,
        size: int = 32,
        colour: Colour = "rgb",
        cutout: int = 0,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        self.folder = folder
        self.size = size
        self.cutout = cutout
        self.colour = colour
        channels = 3 if colour == "rgb" else 1
        self.input_shape = (channels, size, size)
        self.preprocessing = Preprocessing(scale=1 / 255, mean=mean or (0.5,) * channels, std=std or (0.25,) * channels)
        self.labels = _class_names(folder)

    def source_digest(self) -> str:
        """SHA-256 over the names of all classes and the names and contents of all files."""
        digest = hashlib.sha256("\0".join((*self.labels, "")).encode())  # a class may have no file yet
        for file in self._files():
            digest.update(os.fsencode(file.relative_to(self.folder)) + b"\0")
            try:
                digest.update(bytes.fromhex(file_digest(file)))
            except OSError as error:
                digest.update(f"unreadable {error.errno}".encode())  # `read` lists it with all others
        return digest.hexdigest()

    def read(self) -> tuple[Split, Split | None]:
        """All images, none set apart. Raises Mistakes with a line for each file and class that is wrong."""
        files = self._files()
        images = _decode_all(files, self.size, self.colour)
        mistakes = [
            f"{file}: {image}; mend it or take it out of the folder"
            for file, image in zip(files, images, strict=True)
            if isinstance(image, str)
        ]
        good = [(file, image) for file, image in zip(files, images, strict=True) if not isinstance(image, str)]
        found = Counter(file.parent.name for file, _ in good)
        mistakes += [
            f"{self.folder / label}: class {label!r} has {count} readable image{'s' * (count != 1)}, "
            f"at least {IMAGES_NEEDED} are needed"
            for label in self.labels
            if (count := found[label]) < IMAGES_NEEDED
        ]
        if mistakes:
            raise Mistakes(_shortened(mistakes))
        number = {label: index for index, label in enumerate(self.labels)}
        targets = np.array([number[file.parent.name] for file, _ in good], np.int64)
        return Split(f"images of {self.folder.name}", np.stack([image for _, image in good]), targets), None

    def load(self, *, seed: int, holdout: str | None) -> tuple[Splits, Split]:
        """As of any classification; within each split classes are mixed: stages look at the first examples."""
        splits, test = super().load(seed=seed, holdout=holdout)
        kept = None if splits.holdout is None else _mixed(splits.holdout)
        return Splits(_mixed(splits.train), _mixed(splits.val), kept), _mixed(test)

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Moved by up to an eighth of the size, and mirrored; then a part is hidden, if that is asked for."""
        views = random_flip(random_shift(inputs, self.size // 8, generator), generator)
        return cutout(views, self.cutout, self.preprocessing, generator)

    def _files(self) -> list[Path]:
        """Files of all classes, class by class, by name; hidden ones are left out."""
        files: list[Path] = []
        for label in self.labels:
            try:
                inside = sorted((self.folder / label).iterdir())
            except OSError as error:
                raise UserError(f"{self.folder / label}: cannot be read ({error.strerror})") from error
            files += [file for file in inside if not file.name.startswith(".")]
        return files


@TASKS.register("image_folder")
def build(
    data_root: Path,
    *,
    path: str,
    size: Annotated[int, Field(ge=8, le=512)] = 32,
    colour: Colour = "rgb",
    cutout: Annotated[int, Field(ge=0)] = 0,
    mean: tuple[float, ...] | None = None,
    std: tuple[Annotated[float, Field(gt=0.0)], ...] | None = None,
) -> ImageFolder:
    """The images under `path` (absolute, or within `data_root`). Raises UserError if there are no classes.

    cutout: side in pixels of a square that each training view hides; for long trainings. 0: none.
    mean, std: a network sees (pixel / 255 - mean) / std, for each channel or for all: as given weights were trained
    (ImageNet's: [0.485, 0.456, 0.406] and [0.229, 0.224, 0.225]). null: 0.5 and 0.25.
    """
    means, stds = (None if numbers is None else tuple(numbers) for numbers in (mean, std))  # lists in a recipe
    return ImageFolder(data_root / path, size=size, colour=colour, cutout=cutout, mean=means, std=stds)


def _mixed(split: Split) -> Split:
    """In the order of a hash of each image, so that an order does not depend on names."""
    digests = [hashlib.sha256(image.tobytes()).digest() for image in split.inputs]
    order = np.array(sorted(range(len(digests)), key=digests.__getitem__), np.int64)
    return Split(split.name, split.inputs[order], split.targets[order])


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise UserError(f"task.options.path: {folder} is not a folder; expected one folder for each class in it")
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    if len(names) < 2:
        found = f"only the class folder {names[0]!r}" if names else "no class folders"
        raise UserError(f"task.options.path: {folder} holds {found}; at least two are needed, as class/name.png")
    for name in names:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UserError(f"{folder}: the name of the class folder {name!a} is not UTF-8; rename it")
    return names


def _decode_all(files: Sequence[Path], size: int, colour: Colour) -> list[np.ndarray | str]:
    """Each file as an array, or what is wrong with it; on all CPUs (Pillow decodes without the lock)."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pool.map(lambda file: _decode(file, size, colour), files)
        return list(
            track(
                decoded,
                "reading images",
                total=len(files),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            )
        )


def _decode(file: Path, size: int, colour: Colour) -> np.ndarray | str:
    """The image as uint8 (C, size, size), upright; or a phrase that says what is wrong with the file."""
    from PIL import Image, ImageOps

    if os.path.exists(file) and not file.is_file():
        return "is not a file"
    try:
        with Image.open(file) as image:
            image.draft(None, (2 * size, 2 * size))  # JPEG: decode no more pixels than needed
            if image.mode in ("I", "F"):
                return "has 32 bits a pixel, whose range nobody knows: save it with 8 or 16"
            upright = ImageOps.exif_transpose(image)
            square = ImageOps.fit(
                _plain(upright, "RGB" if colour == "rgb" else "L"), (size, size), Image.Resampling.BILINEAR
            )
    except Exception as error:  # a damaged or hostile file can make a decoder raise anything
        if str(file).endswith((".npy", ".npz")):
            return "holds arrays, not an image: write a task of your own (docs/your-own.md, A task)"
        return f"is not a readable image ({_reason(error)})"
    pixels = np.asarray(square)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if colour == "rgb" else pixels[None].copy()


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """`image` in `mode`: 16-bit grey scaled to 8 bits, transparency laid over white."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "no image format that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _shortened(mistakes: list[str]) -> list[str]:
    surplus = len(mistakes) - MISTAKES_SHOWN
    return mistakes if surplus <= 1 else [*mistakes[:MISTAKES_SHOWN], f"and {surplus} more like these"]
