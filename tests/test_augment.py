"""Distorted pictures: nothing happens without amounts, a known amount does what it says, one seed gives one result."""

import numpy as np
import pytest

from fastconv.augment import distort

pytestmark = pytest.mark.isa_independent

STILL = {"rotation": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0}


class Drawn:
    """In the place of a generator: the six numbers of each picture, as they would be drawn."""

    def __init__(self, *numbers):
        self.numbers = (np.array(numbers, np.float32)[:, None] + 1) / 2

    def random(self, shape, dtype):
        return np.broadcast_to(self.numbers, shape).astype(dtype)


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (3, 2, 8, 8), np.uint8)


def test_no_amount_changes_nothing(images):
    y = distort(images, np.random.default_rng(0), **STILL)
    np.testing.assert_array_equal(y, images)
    assert y.dtype == np.float32


def test_shift_by_whole_pixels_brings_in_black(images):
    y = distort(images, Drawn(0, 0, 0, 0, 1, -1), **(STILL | {"shift": 0.25}))
    expected = np.zeros_like(images)
    expected[:, :, :-2, 2:] = images[:, :, 2:, :-2]
    np.testing.assert_array_equal(y, expected)


def test_shift_out_of_the_picture_leaves_black(images):
    assert not distort(images, Drawn(0, 0, 0, 0, 1, 0), **(STILL | {"shift": 3})).any()


def test_rotation_by_a_right_angle(images):
    y = distort(images, Drawn(1, 0, 0, 0, 0, 0), **(STILL | {"rotation": np.pi / 2}))
    np.testing.assert_allclose(y, np.rot90(images, k=-1, axes=(2, 3)), atol=1e-3)


def test_one_seed_one_result_and_pictures_differ(images):
    same = np.repeat(images[:1], 4, axis=0)
    first, second = (distort(same, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len({picture.tobytes() for picture in first}) == 4


def test_pictures_are_not_changed_in_place(images):
    before = images.copy()
    assert (distort(images, np.random.default_rng(0)) != before).any()
    np.testing.assert_array_equal(images, before)
