"""Convolution against the oracle."""

import numpy as np
import pytest
from views import draw

import fastconv.functional as ff
from fastconv import reference


@pytest.mark.parametrize(
    "padding", [1, np.int64(1), (1,), [1, 2], (1, 2), ((1, 1),), ((1, 0), (2, 1)), [[0, 3], [1, 1]], "same", "valid"]
)
def test_every_way_to_write_a_padding(padding):
    x, weight = draw(2, 3, 9, 8), draw(4, 3, 3, 2, seed=1)
    y = ff.conv2d(x, weight, padding=padding)
    np.testing.assert_allclose(y, reference.conv2d(x, weight, padding=padding), atol=1e-13)
