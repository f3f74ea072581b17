"""Folders of images in many formats; everything that is wrong is listed at once, by file name."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketpipe.errors import Mistakes, UserError
from pocketpipe.task import TaskChoice
from pocketpipe.tasks.image_folder import ImageFolder


def _fill(folder: Path, classes: dict[str, int], size: tuple[int, int] = (20, 20)) -> Path:
    """A folder with `count` different PNG images for each class."""
    for seed, (label, count) in enumerate(classes.items()):
        (folder / label).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng((seed, index)).integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index:03}.png")
    return folder


def _task(folder: Path, **options: object) -> ImageFolder:
    task = TaskChoice(name="image_folder", options={"path": folder.name, **options}).build(folder.parent)
    assert isinstance(task, ImageFolder)
    return task


def test_classes_are_the_folders_and_every_image_is_in_one_split(tmp_path: Path) -> None:
    task = _task(_fill(tmp_path / "pets", {"dog": 30, "cat": 20}), size=16)
    assert task.labels == ("cat", "dog")
    assert task.input_shape == (3, 16, 16)
    splits, test = task.load(seed=0, holdout=None)
    parts = (splits.train, splits.val, test)
    assert sum(len(part) for part in parts) == 50
    assert len({bytes(x) for part in parts for x in part.inputs}) == 50
    assert all(set(part.targets.tolist()) == {0, 1} for part in parts)
    assert test.name == f"test, {len(test)} of 50 images of pets"
    assert splits.train.inputs.dtype == np.uint8
    assert splits.train.inputs.shape[1:] == (3, 16, 16)


def test_the_first_examples_are_of_all_classes(tmp_path: Path) -> None:
    """Ranges, statistics and emulated figures are taken from the first ones."""
    splits, test = _task(_fill(tmp_path / "pets", {"a": 60, "b": 60, "c": 60}), size=8).load(seed=0, holdout=None)
    assert set(splits.train.targets[:15].tolist()) == set(test.targets[:10].tolist()) == {0, 1, 2}


def test_images_are_normalized_as_given_weights_need_it(tmp_path: Path) -> None:
    pets = _fill(tmp_path / "pets", {"a": 20, "b": 20})
    white = np.full((1, 3, 8, 8), 255, np.uint8)
    assert _task(pets, size=8).preprocessing(white)[0, :, 0, 0].tolist() == [2.0, 2.0, 2.0]
    given = _task(pets, size=8, mean=[0.4, 0.5, 0.6], std=[0.5])
    np.testing.assert_allclose(given.preprocessing(white)[0, :, 0, 0], [1.2, 1.0, 0.8], rtol=1e-6)


def test_an_image_stays_in_its_split_as_the_folder_grows(tmp_path: Path) -> None:
    small = _task(_fill(tmp_path / "a" / "pets", {"cat": 20, "dog": 20}))
    large = _task(_fill(tmp_path / "b" / "pets", {"cat": 60, "dog": 45}))

    def members(task: ImageFolder) -> dict[str, set[bytes]]:
        splits, test = task.load(seed=0, holdout=None)
        return {name: {bytes(x) for x in part.inputs} for name, part in (("test", test), ("val", splits.val))}

    before, after = members(small), members(large)
    assert before["test"] <= after["test"]
    assert not before["test"] & after["val"]


def test_three_images_a_class_are_enough(tmp_path: Path) -> None:
    splits, test = _task(_fill(tmp_path / "few", {"a": 3, "b": 3})).load(seed=0, holdout=None)
    assert [sorted(part.targets.tolist()) for part in (splits.train, splits.val, test)] == [[0, 1]] * 3


def _one(tmp_path: Path, image: Image.Image, name: str, **options: object) -> np.ndarray:
    """The stored pixels of one image, read among others."""
    folder = _fill(tmp_path / "mixed", {"a": 3, "b": 3})
    image.save(folder / "a" / name, **({"lossless": True} if name.endswith("webp") else {}))
    examples, _ = _task(folder, size=20, **options).read()
    position = [*sorted(path.name for path in (folder / "a").iterdir())].index(name)
    pixels: np.ndarray = examples.inputs[position]
    return pixels


COLOURS = np.random.default_rng(1).integers(0, 256, (20, 20, 3), np.uint8)


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tiff", "x.webp", "x.ppm"])
def test_lossless_formats_come_through_as_they_are(tmp_path: Path, name: str) -> None:
    np.testing.assert_array_equal(_one(tmp_path, Image.fromarray(COLOURS), name), COLOURS.transpose(2, 0, 1))


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    pixels = np.dstack([COLOURS, np.full((20, 20), 255, np.uint8)])
    pixels[:10, :, 3] = 0
    stored = _one(tmp_path, Image.fromarray(pixels, "RGBA"), "x.png")
    assert (stored[:, :10] == 255).all()
    np.testing.assert_array_equal(stored[:, 10:], COLOURS.transpose(2, 0, 1)[:, 10:])


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    stored = _one(tmp_path, Image.fromarray(ramp), "x.png", colour="grey")
    assert stored.shape == (1, 20, 20)
    np.testing.assert_array_equal(stored[0], ramp >> 8)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_of_32_bits_are_refused(kind: type[np.generic], tmp_path: Path) -> None:
    ramp = np.linspace(0, 1 if kind is np.float32 else 255, 400).astype(kind).reshape(20, 20)
    with pytest.raises(Mistakes, match=r"x\.tiff: has 32 bits a pixel, whose range nobody knows: save it with 8 or 16"):
        _one(tmp_path, Image.fromarray(ramp), "x.tiff")


def test_an_image_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS)
    exif = image.getexif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    folder = _fill(tmp_path / "turned", {"a": 3, "b": 3})
    image.save(folder / "a" / "x.png", exif=exif)
    examples, _ = _task(folder, size=20).read()
    np.testing.assert_array_equal(examples.inputs[3], np.rot90(COLOURS, k=-1).transpose(2, 0, 1))


def test_an_oblong_image_is_cropped_around_its_centre(tmp_path: Path) -> None:
    oblong = np.zeros((20, 60, 3), np.uint8)
    oblong[:, 20:40] = COLOURS
    np.testing.assert_array_equal(_one(tmp_path, Image.fromarray(oblong), "x.png"), COLOURS.transpose(2, 0, 1))


def test_everything_wrong_is_listed_together(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "pets", {"cat": 5, "dog": 1, "owl": 0})
    whole = (folder / "cat" / "000.png").read_bytes()
    (folder / "cat" / "broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cat" / "notes.txt").write_text("not an image")
    (folder / "cat" / "more").mkdir()
    (folder / "cat" / ".hidden").write_text("left out")
    with pytest.raises(Mistakes) as caught:
        _task(folder).load(seed=0, holdout=None)
    lines = caught.value.lines
    assert len(lines) == 5
    assert "broken.png: is not a readable image (" in lines[0]
    assert "more: is not a file" in lines[1]
    assert "notes.txt: is not a readable image (no image format that Pillow knows)" in lines[2]
    assert "class 'dog' has 1 readable image, at least 3 are needed" in lines[3]
    assert "class 'owl' has 0 readable images" in lines[4]


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "pets", {"cat": 3, "dog": 3})
    for index in range(30):
        (folder / "cat" / f"{index}.txt").write_text("no image")
    with pytest.raises(Mistakes) as caught:
        _task(folder).read()
    assert len(caught.value.lines) == 21
    assert caught.value.lines[-1] == "and 10 more like these"


@pytest.mark.parametrize(
    ("classes", "says"),
    [(None, "is not a folder"), ({}, "holds no class folders"), ({"cat": 3}, "only the class folder 'cat'")],
)
def test_a_folder_without_classes_is_refused_before_any_work(
    tmp_path: Path, classes: dict[str, int] | None, says: str
) -> None:
    folder = tmp_path / "pets"
    if classes is not None:
        folder.mkdir()
        _fill(folder, classes)
    with pytest.raises(UserError, match=says):
        _task(folder)


def test_the_source_digest_changes_with_names_and_contents(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "pets", {"cat": 3, "dog": 3})
    digests = [_task(folder).source_digest()]
    (folder / "cat" / "000.png").rename(folder / "cat" / "renamed.png")
    digests.append(_task(folder).source_digest())
    (folder / "dog" / "000.png").write_bytes((folder / "dog" / "001.png").read_bytes())
    digests.append(_task(folder).source_digest())
    (folder / "cat" / ".hidden").write_text("not looked at")
    digests.append(_task(folder).source_digest())
    assert len(set(digests)) == 3
    assert digests[2] == digests[3]


def test_a_class_without_images_changes_the_digest_and_is_refused(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "pets", {"cat": 4, "dog": 4})
    before = _task(folder).source_digest()
    (folder / "bird").mkdir()
    task = _task(folder)
    assert task.source_digest() != before
    with pytest.raises(Mistakes, match="class 'bird' has 0 readable images"):
        task.load(seed=0, holdout=None)


def test_names_that_are_not_utf_8_are_files_like_others_but_no_labels(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "pets", {"cat": 4, "dog": 4})
    os.rename(folder / "cat" / "000.png", os.fsencode(folder / "cat") + b"/Stra\xdfe.png")
    assert _task(folder).source_digest()
    assert len(_task(folder).read()[0]) == 8
    os.mkdir(os.fsencode(folder) + b"/v\xf6gel")
    with pytest.raises(UserError, match="not UTF-8"):
        _task(folder)
