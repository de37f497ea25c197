"""Pictures to learn from: scikit-learn's digits, MNIST, Fashion-MNIST and CIFAR-10, read into unsigned bytes.

dataset = data.load()           # the digits, at 32x32
dataset = data.load("mnist/")   # whatever standard files that folder holds
prepare = data.Preparation.of(dataset, size=32)
x = prepare(dataset.test_images[:8])  # float32, what a network takes
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.extras import require

Array = NDArray[Any]

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class DataError(ValueError):
    """A file of a dataset is missing, damaged or not what its name says; the message starts with its path."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Square pictures and their classes, with a held-out test split.

    Images are uint8 (N, C, S, S), channels red, green, blue where C = 3; labels are int64 (N,), indices into classes.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array


def load(folder: str | os.PathLike[str] | None = None) -> Dataset:
    """Read the dataset that a folder holds, recognised by the names of its files; without a folder, the digits.

    Parameters
    ----------
    folder
        With the four IDX files of MNIST or Fashion-MNIST, gzipped or not, or the six binary batches of CIFAR-10.

    Raises
    ------
    DataError
        If there is no dataset, or one of its files is missing, truncated or not what its name says.
    """
    if folder is None:
        return load_digits32()
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    has_idx = any(_find(folder, name) for names in IDX_FILES.values() for name in names)
    has_cifar = any((folder / name).exists() for name in (*CIFAR_TRAIN, CIFAR_TEST))
    if has_idx and has_cifar:
        raise DataError(f"{folder}: holds IDX files and CIFAR-10 batches; keep one dataset in a folder")
    if has_idx:
        return load_idx(folder)
    if has_cifar:
        return load_cifar10(folder)
    raise DataError(
        f"{folder}: holds neither MNIST or Fashion-MNIST ({IDX_FILES['train'][0]}[.gz], ...) "
        f"nor CIFAR-10 in its binary version ({CIFAR_TRAIN[0]}, ...)"
    )


# The digits of scikit-learn.


def load_digits32(test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """Return the 1,797 handwritten digits that come with scikit-learn, at 32x32, a part held out for the test.

    Each 8x8 picture holds, in 0..16, the ink of the 4x4 blocks of a 32x32 scan. `interpolate` brings it back to 32x32,
    and 16 becomes 255.

    Parameters
    ----------
    test_fraction
        Part of every class, rounded to whole pictures, that becomes the test split. Default 0.2.
    seed
        Chooses which; not the seed of training, so that every training is tested on the same digits. Default 0.

    Raises
    ------
    MissingExtraError
        If scikit-learn is not installed.

    Source: Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """
    bunch = require("sklearn.datasets", extra="train").load_digits()
    images = np.rint(interpolate(bunch.images, 32) * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    test = _stratified(labels, test_fraction, np.random.default_rng(seed))
    return Dataset("digits", DIGITS, images[~test], labels[~test], images[test], labels[test])


def _stratified(labels: Array, fraction: float, rng: np.random.Generator) -> Array:
    """Mark `fraction` of every class, chosen at random."""
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen[members[: round(fraction * len(members))]] = True
    return chosen


# MNIST and Fashion-MNIST.

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_CLOTHES_BEGIN = (9, 0, 0, 3, 0, 2, 7, 2, 5, 5)


def load_idx(folder: str | os.PathLike[str]) -> Dataset:
    """Read MNIST or Fashion-MNIST from its four IDX files, each gzipped or not.

    The two have the same file names; it is Fashion-MNIST if the path says "fashion" or the training labels begin as
    Fashion-MNIST's do.

    Raises
    ------
    DataError
        If a file is missing, truncated or not what its name says.
    """
    folder = Path(folder)
    train_images, train_labels = _read_pair(folder, *IDX_FILES["train"])
    test_images, test_labels = _read_pair(folder, *IDX_FILES["test"])
    if test_images.shape[1:] != train_images.shape[1:]:
        path = _find(folder, IDX_FILES["test"][0])
        raise DataError(f"{path}: pictures of {_by(test_images)} pixels, those to train on have {_by(train_images)}")
    fashion = "fashion" in str(folder.resolve()).lower() or tuple(train_labels[:10]) == _CLOTHES_BEGIN
    name, classes = ("fashion-mnist", CLOTHES) if fashion else ("mnist", DIGITS)
    return Dataset(name, classes, train_images, train_labels, test_images, test_labels)


def _read_pair(folder: Path, images_name: str, labels_name: str) -> tuple[Array, Array]:
    paths = []
    for name in (images_name, labels_name):
        path = _find(folder, name)
        if path is None:
            raise DataError(f"{folder / name}: no such file, nor {name}.gz")
        paths.append(path)
    images, labels = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if 0 in images.shape or images.shape[1] != images.shape[2]:
        raise DataError(f"{paths[0]}: {len(images)} pictures of {_by(images)} pixels, expected some, and square ones")
    if len(labels) != len(images):
        raise DataError(f"{paths[1]}: {len(labels)} labels for the {len(images)} pictures of {paths[0].name}")
    return images[:, None], _checked(labels, paths[1])


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)


def _by(images: Array) -> str:
    return f"{images.shape[-2]}x{images.shape[-1]}"


def read_idx(path: str | os.PathLike[str], ndim: int) -> Array:
    """Read an array of unsigned bytes from an IDX file, gzipped or not, whatever its name.

    The file is 0, 0, 8 for unsigned bytes, ndim, then ndim sizes as big-endian 32-bit numbers, then the bytes.

    Raises
    ------
    DataError
        If the file cannot be read, is something else, has another number of dimensions, or is too short or too long.

    Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", file formats.
    """
    path = Path(path)
    content = _content(path)
    start = 4 + 4 * ndim
    if content[:2] != b"\0\0"[: len(content)]:
        raise DataError(f"{path}: not an IDX file: it begins with bytes {content[:4].hex(' ')}")
    if content[2:3] not in (b"", b"\x08"):
        raise DataError(f"{path}: holds values of IDX type 0x{content[2]:02x}, expected 0x08, unsigned bytes")
    if len(content) > 3 and content[3] != ndim:
        what = {1: "labels", 3: "pictures"}.get(ndim, "values")
        raise DataError(f"{path}: has {content[3]} dimensions, but {what} have {ndim}: is it another file, renamed?")
    if len(content) < start:
        raise DataError(f"{path}: truncated: {len(content)} bytes are less than its header of {start}")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", ndim, offset=4))
    if len(content) - start != math.prod(shape):
        fault = "truncated" if len(content) - start < math.prod(shape) else "too long"
        raise DataError(f"{path}: {fault}: {math.prod(shape)} bytes announced, {len(content) - start} there")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except EOFError as error:
        raise DataError(f"{path}: truncated: the gzip stream has no end") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: corrupt gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _checked(labels: Array, path: Path) -> Array:
    wrong = np.flatnonzero(labels > 9)
    if wrong.size:
        raise DataError(f"{path}: label {labels[wrong[0]]} of picture {wrong[0]} is not one of 0..9")
    return labels.astype(np.int64)


# CIFAR-10.

CIFAR_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_TEST = "test_batch.bin"
_CIFAR_RECORD = 1 + 3 * 32 * 32


def load_cifar10(folder: str | os.PathLike[str]) -> Dataset:
    """Read CIFAR-10 from its binary version: five batches to train on and one to test.

    Raises
    ------
    DataError
        If a file is missing, truncated or not what its name says.
    """
    folder = Path(folder)
    images, labels = zip(*(read_cifar(folder / name) for name in CIFAR_TRAIN), strict=True)
    test_images, test_labels = read_cifar(folder / CIFAR_TEST)
    return Dataset("cifar10", THINGS, np.concatenate(images), np.concatenate(labels), test_images, test_labels)


def read_cifar(path: str | os.PathLike[str]) -> tuple[Array, Array]:
    """Read one batch: uint8 pictures (N, 3, 32, 32) and int64 labels (N,).

    A record is a label, then 1024 bytes each of red, green and blue, row by row.

    Raises
    ------
    DataError
        If the file cannot be read, is not made of whole records, or has a label above 9.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; the data's own web page.
    """
    path = Path(path)
    content = _content(path)
    if not content or len(content) % _CIFAR_RECORD:
        raise DataError(
            f"{path}: {len(content)} bytes are not a whole number of {_CIFAR_RECORD}-byte records: truncated?"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), _checked(records[:, 0], path)


# From a dataset's pictures to a network's input.


@dataclass(frozen=True, slots=True)
class Preparation:
    """From pictures in 0..255 to what a network takes: x = (picture at size x size / 255 - mean) / std, float32.

    mean and std are those of a channel over the training pictures, each pixel counted alike.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, dataset: Dataset, size: int) -> Preparation:
        """Measure a dataset's training pictures, for a network that takes size x size pixels."""
        images = dataset.train_images
        count = images.size // images.shape[1]
        # Whole numbers, so that the result does not depend on the order of summation.
        total = np.einsum("nchw->c", images, dtype=np.int64).tolist()
        squares = np.einsum("nchw,nchw->c", images, images, dtype=np.int64).tolist()
        mean = [t / count for t in total]
        deviation = [math.sqrt(max(s / count - m * m, 1.0)) for s, m in zip(squares, mean, strict=True)]
        return cls(size, tuple(m / 255 for m in mean), tuple(d / 255 for d in deviation))

    def __call__(self, images: Array) -> Array:
        """Return pictures (N, C, S, S), uint8 or float in 0..255, as float32 (N, C, size, size)."""
        scale = np.float32(1 / 255) / np.array(self.std, np.float32)
        shift = np.array(self.mean, np.float32) / np.array(self.std, np.float32)
        return resize(images, self.size) * scale[:, None, None] - shift[:, None, None]


def resize(images: Array, size: int) -> Array:
    """Bring square pictures (N, C, S, S) to float32 (N, C, size, size).

    28 to 32 is a border of zeros, as LeNet-5 framed MNIST; every other change interpolates.
    """
    now = images.shape[-1]
    images = images.astype(np.float32, copy=False)
    if (now, size) == (28, 32):
        return np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    return images if now == size else interpolate(images, size)


def interpolate(images: Array, size: int) -> Array:
    """Interpolate square pictures (..., S, S) bilinearly to (..., size, size), in floating point.

    The centre of output pixel i lies at (i + 1/2) S / size - 1/2; outside the outermost centres the edge continues.
    Every output row and column is a weighted mean of two, hence y = W x W^T.
    """
    now = images.shape[-1]
    centres = np.clip((np.arange(size) + 0.5) * (now / size) - 0.5, 0, now - 1)
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(now)))
    weights = weights.astype(np.result_type(images, np.float32), copy=False)
    return weights @ images @ weights.T
