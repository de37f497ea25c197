"""Readers of datasets: good files give the pictures that were written, every bad file is named in one line."""

import gzip
import struct

import numpy as np
import pytest

from fastconv import data
from fastconv.data import DataError

pytestmark = pytest.mark.isa_independent

TRAIN_IMAGES, TRAIN_LABELS = data.IDX_FILES["train"]
TEST_IMAGES, TEST_LABELS = data.IDX_FILES["test"]


def idx(array, code=8):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def pictures(rng, count, size=28):
    return rng.integers(0, 256, (count, size, size), np.uint8)


def labels(rng, count):
    return rng.integers(0, 10, count, np.uint8)


@pytest.fixture
def mnist(tmp_path, rng):
    """A folder with tiny files of MNIST's names, and what is in them."""
    arrays = {
        TRAIN_IMAGES: pictures(rng, 12),
        TRAIN_LABELS: labels(rng, 12),
        TEST_IMAGES: pictures(rng, 5),
        TEST_LABELS: labels(rng, 5),
    }
    for name, array in arrays.items():
        (tmp_path / name).write_bytes(idx(array))
    return tmp_path, arrays


@pytest.fixture
def cifar(tmp_path, rng):
    """A folder with tiny CIFAR-10 batches, and their records by file name."""
    records = {}
    for name in (*data.CIFAR_TRAIN, data.CIFAR_TEST):
        records[name] = rng.integers(0, 256, (4, 3073), np.uint8)
        records[name][:, 0] %= 10
        (tmp_path / name).write_bytes(records[name].tobytes())
    return tmp_path, records


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def error_of(read, *arguments):
    with pytest.raises(DataError) as raised:
        read(*arguments)
    message = str(raised.value)
    assert "\n" not in message
    return message


# Good files.


def test_idx_files_are_read(mnist):
    folder, arrays = mnist
    dataset = data.load(folder)
    assert dataset.name == "mnist"
    assert dataset.classes == data.DIGITS
    np.testing.assert_array_equal(dataset.train_images, arrays[TRAIN_IMAGES][:, None])
    np.testing.assert_array_equal(dataset.train_labels, arrays[TRAIN_LABELS])
    np.testing.assert_array_equal(dataset.test_images, arrays[TEST_IMAGES][:, None])
    np.testing.assert_array_equal(dataset.test_labels, arrays[TEST_LABELS])
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int64


def test_gzipped_and_plain_files_may_stand_side_by_side(mnist):
    folder, arrays = mnist
    for name in (TRAIN_IMAGES, TEST_LABELS):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    dataset = data.load(str(folder))
    np.testing.assert_array_equal(dataset.train_images[:, 0], arrays[TRAIN_IMAGES])
    np.testing.assert_array_equal(dataset.test_labels, arrays[TEST_LABELS])


def test_fashion_is_known_by_the_folder(mnist):
    folder, _ = mnist
    inner = folder / "Fashion"
    inner.mkdir()
    for name in (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS):
        (folder / name).rename(inner / name)
    dataset = data.load(inner)
    assert dataset.name == "fashion-mnist"
    assert dataset.classes == data.CLOTHES


def test_fashion_is_known_by_its_first_labels(mnist):
    folder, _ = mnist
    (folder / TRAIN_LABELS).write_bytes(idx(np.array([9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9], np.uint8)))
    assert data.load(folder).name == "fashion-mnist"


def test_cifar_batches_are_read(cifar):
    folder, records = cifar
    dataset = data.load(folder)
    assert dataset.name == "cifar10"
    assert dataset.train_images.shape == (20, 3, 32, 32)
    written = np.concatenate([records[name] for name in data.CIFAR_TRAIN])
    np.testing.assert_array_equal(dataset.train_labels, written[:, 0])
    np.testing.assert_array_equal(dataset.train_images.reshape(20, -1), written[:, 1:])
    np.testing.assert_array_equal(dataset.test_images.reshape(4, -1), records[data.CIFAR_TEST][:, 1:])


# Folders.


def test_no_folder(tmp_path):
    assert error_of(data.load, tmp_path / "none") == f"{tmp_path / 'none'}: no such folder"


def test_folder_of_something_else(tmp_path):
    (tmp_path / "readme.txt").write_text("no data here")
    message = error_of(data.load, tmp_path)
    assert message.startswith(f"{tmp_path}: holds neither")
    assert TRAIN_IMAGES in message
    assert data.CIFAR_TRAIN[0] in message


def test_two_datasets_in_a_folder(mnist):
    folder, _ = mnist
    (folder / data.CIFAR_TEST).write_bytes(bytes(3073))
    assert error_of(data.load, folder).startswith(f"{folder}: holds IDX files and CIFAR-10 batches")


# Bad IDX files; each is (file, its new content from the old, what the message says).


def swap_bytes(content, position, value):
    return content[:position] + bytes([value]) + content[position + 1 :]


BAD_IDX = {
    "missing": (TEST_LABELS, None, f"no such file, nor {TEST_LABELS}.gz"),
    "empty": (TRAIN_IMAGES, lambda c: b"", "truncated: 0 bytes are less than its header of 16"),
    "cut in the header": (TRAIN_IMAGES, lambda c: c[:9], "truncated: 9 bytes are less than its header of 16"),
    "cut in the pictures": (TEST_IMAGES, lambda c: c[:-1], "truncated: 3920 bytes announced, 3919 there"),
    "cut in the labels": (TRAIN_LABELS, lambda c: c[:-3], "truncated: 12 bytes announced, 9 there"),
    "too long": (TRAIN_LABELS, lambda c: c + b"\1\2", "too long: 12 bytes announced, 14 there"),
    "text": (TRAIN_IMAGES, lambda c: b"<!DOCTYPE html>", "not an IDX file: it begins with bytes 3c 21 44 4f"),
    "floats": (TRAIN_IMAGES, lambda c: swap_bytes(c, 2, 0x0D), "holds values of IDX type 0x0d, expected 0x08"),
    "labels for pictures": (
        TRAIN_IMAGES,
        lambda c: idx(np.zeros(12, np.uint8)),
        "has 1 dimensions, but pictures have 3",
    ),
    "pictures for labels": (
        TRAIN_LABELS,
        lambda c: idx(np.zeros((12, 28, 28), np.uint8)),
        "has 3 dimensions, but labels",
    ),
    "one label less": (TRAIN_LABELS, lambda c: idx(np.zeros(11, np.uint8)), "11 labels for the 12 pictures of"),
    "a label of 10": (TEST_LABELS, lambda c: swap_bytes(c, 10, 10), "label 10 of picture 2 is not one of 0..9"),
    "oblong": (TRAIN_IMAGES, lambda c: idx(np.zeros((12, 28, 14), np.uint8)), "12 pictures of 28x14 pixels, expected"),
    "no pictures": (
        TEST_IMAGES,
        lambda c: idx(np.zeros((0, 28, 28), np.uint8)),
        "0 pictures of 28x28 pixels, expected",
    ),
    "other size": (
        TEST_IMAGES,
        lambda c: idx(np.zeros((5, 32, 32), np.uint8)),
        "32x32 pixels, those to train on have 28x28",
    ),
    "huge sizes": (TRAIN_IMAGES, lambda c: c[:4] + b"\xff" * 12 + c[16:], "truncated: "),
    "cut gzip": (TRAIN_IMAGES, lambda c: gzip.compress(c)[:-20], "truncated: the gzip stream has no end"),
    "gzip, wrong inside": (TRAIN_IMAGES, lambda c: swap_bytes(gzip.compress(c), -6, 0), "corrupt gzip file"),
    "gzip, wrong head": (TRAIN_IMAGES, lambda c: b"\x1f\x8b\7" + bytes(40), "corrupt gzip file"),
}


def check_bad_file(folder, name, change, expected):
    """A data set with one file changed, or missing, is refused with that file's name and what is wrong."""
    path = folder / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    message = error_of(data.load, folder)
    assert message.startswith(f"{path}: ")
    assert expected in message


@pytest.mark.parametrize("case", BAD_IDX)
def test_bad_idx_file_is_named(mnist, case):
    check_bad_file(mnist[0], *BAD_IDX[case])


def test_folder_in_the_place_of_a_file(mnist):
    folder, _ = mnist
    (folder / TRAIN_LABELS).unlink()
    (folder / TRAIN_LABELS).mkdir()
    assert error_of(data.load, folder) == f"{folder / TRAIN_LABELS}: Is a directory"


BAD_CIFAR = {
    "missing": ("data_batch_4.bin", None, "No such file or directory"),
    "missing test": (data.CIFAR_TEST, None, "No such file or directory"),
    "empty": ("data_batch_2.bin", lambda c: b"", "0 bytes are not a whole number of 3073-byte records"),
    "cut": ("data_batch_5.bin", lambda c: c[:-1], "12291 bytes are not a whole number of 3073-byte records"),
    "CIFAR-100": ("data_batch_1.bin", lambda c: bytes(4 * 3074), "12296 bytes are not a whole number"),
    "a label of 77": (data.CIFAR_TEST, lambda c: swap_bytes(c, 3073, 77), "label 77 of picture 1 is not one of 0..9"),
}


@pytest.mark.parametrize("case", BAD_CIFAR)
def test_bad_cifar_batch_is_named(cifar, case):
    check_bad_file(cifar[0], *BAD_CIFAR[case])


# The digits.


def test_digits_are_split_by_class_and_always_alike():
    dataset, again = data.load(), data.load_digits32()
    assert dataset.train_images.shape == (1438, 1, 32, 32)
    assert dataset.test_images.shape == (359, 1, 32, 32)
    assert dataset.test_images.max() == 255
    totals = np.bincount(dataset.train_labels) + np.bincount(dataset.test_labels)
    np.testing.assert_array_equal(np.bincount(dataset.test_labels), np.rint(totals / 5))
    np.testing.assert_array_equal(dataset.test_images, again.test_images)


def test_no_digit_is_in_both_splits():
    dataset = data.load()
    seen = {picture.tobytes() for picture in dataset.train_images}
    assert not [picture for picture in dataset.test_images if picture.tobytes() in seen]


def test_another_seed_holds_out_other_digits():
    first, second = data.load_digits32(seed=0), data.load_digits32(seed=1)
    assert (first.test_images != second.test_images).any()


def test_interpolation_continues_the_edge_and_is_linear_between_centres():
    y = data.interpolate(np.array([[0.0, 4.0], [8.0, 12.0]]), 4)
    rows = np.array([0, 2, 6, 8])
    np.testing.assert_array_equal(y, rows[:, None] + rows / 2)
    constant = data.interpolate(np.full((3, 5, 5), 7.0), 8)
    np.testing.assert_allclose(constant, 7, rtol=1e-15)


# Preparation.


def test_preparation_makes_training_pictures_of_mean_0_and_deviation_1(cifar):
    folder, _ = cifar
    dataset = data.load(folder)
    x = data.Preparation.of(dataset, 32)(dataset.train_images)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((0, 2, 3)), 1, rtol=1e-5)


def test_constant_pictures_do_not_divide_by_zero(mnist):
    folder, _ = mnist
    (folder / TRAIN_IMAGES).write_bytes(idx(np.zeros((12, 28, 28), np.uint8)))
    dataset = data.load(folder)
    assert np.isfinite(data.Preparation.of(dataset, 28)(dataset.test_images)).all()


def test_28_pixels_are_framed_to_32_and_interpolated_to_any_other_size(rng):
    images = pictures(rng, 2)[:, None]
    framed = data.resize(images, 32)
    np.testing.assert_array_equal(framed[:, :, 2:-2, 2:-2], images)
    assert framed.sum() == images.sum(dtype=np.float32)
    np.testing.assert_array_equal(data.resize(images, 28), images)
    np.testing.assert_allclose(data.resize(images, 56), data.interpolate(images.astype(np.float64), 56), rtol=1e-5)
