"""Worked examples of lectures and textbooks on convolutional networks, digit by digit.

Every implementation of the operators must reproduce them.
"""

import itertools
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fastconv import functional, geometry, reference

IMPLEMENTATIONS = [reference, functional]


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda module: module.__name__)
def ops(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


def image(rows: Any) -> np.ndarray:
    """One picture of one channel, or with three levels of nesting, of several."""
    a = np.array(rows, dtype=np.float64)
    return a.reshape(1, -1, *a.shape[-2:])


def signal(values: str) -> np.ndarray:
    return np.array(values.split(), dtype=np.float64).reshape(1, 1, -1)


NINE = np.arange(1, 10).reshape(3, 3)


# --- cross-correlation -----------------------------------------------------------------------------------------------


def test_two_by_two_kernel(ops: ModuleType) -> None:
    x, k = image([[0, 1, 2], [3, 4, 5], [6, 7, 8]]), image([[0, 1], [2, 3]])
    np.testing.assert_array_equal(ops.conv2d(x, k)[0, 0], [[19, 25], [37, 43]])


def test_channels_are_summed(ops: ModuleType) -> None:
    x = image([[[0, 1, 2], [3, 4, 5], [6, 7, 8]], NINE])
    k = image([[[0, 1], [2, 3]], [[1, 2], [3, 4]]])
    y = ops.conv2d(x, k)
    assert y.shape == (1, 1, 2, 2)
    assert y[0, 0, 0, 0] == 56


def test_padding_and_stride_of_one_to_nine(ops: ModuleType) -> None:
    x = image(NINE)
    np.testing.assert_array_equal(ops.conv2d(x, image([[10, 20], [30, 40]]))[0, 0], [[370, 470], [670, 770]])
    k = image([[10, 20, 30], [40, 50, 60], [30, 20, 10]])
    np.testing.assert_array_equal(ops.conv2d(x, k, padding=1)[0, 0, 0], [300, 600, 500])
    np.testing.assert_array_equal(ops.conv2d(x, k, padding=1, stride=2)[0, 0, 0], [300, 500])


def test_five_by_five(ops: ModuleType) -> None:
    x = image([[3, 3, 2, 1, 0], [0, 0, 1, 3, 1], [3, 1, 2, 2, 3], [2, 0, 0, 2, 2], [2, 0, 0, 0, 1]])
    k = image([[0, 1, 2], [2, 2, 0], [0, 1, 2]])
    np.testing.assert_array_equal(ops.conv2d(x, k)[0, 0], [[12, 12, 17], [10, 17, 19], [9, 6, 14]])
    y = ops.conv2d(x, k, stride=2, padding=1)
    np.testing.assert_array_equal(y[0, 0], [[6, 17, 3], [8, 17, 13], [6, 4, 4]])


@pytest.mark.parametrize(
    ("x", "params", "y"),
    [
        ("1 0 2 3 5 1 2 3", {}, "1 7 9 8 -1 6"),
        ("1 0 2 3 5 1 2 3", {"padding": 1}, "2 1 7 9 8 -1 6 4"),
        ("1 0 2 3 5 1 2", {"padding": 1, "stride": 2}, "2 7 8 3"),
    ],
)
def test_one_dimension(ops: ModuleType, x: str, params: dict[str, int], y: str) -> None:
    np.testing.assert_array_equal(ops.conv1d(signal(x), signal("-1 2 1"), **params), signal(y))


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "params", "size"),
    [
        ((3, 3), {"stride": 2}, (24, 49)),
        ((3, 5), {"stride": (2, 1), "padding": (4, 2)}, (28, 100)),
        ((3, 5), {"stride": (2, 1), "padding": (4, 2), "dilation": (3, 1)}, (26, 100)),
    ],
    ids=str,
)
def test_conv2d_shapes(ops: ModuleType, kernel: tuple[int, int], params: dict[str, Any], size: tuple[int, int]) -> None:
    x, w = np.ones((20, 16, 50, 100), np.float32), np.ones((33, 16, *kernel), np.float32)
    y = ops.conv2d(x, w, np.zeros(33, np.float32), **params)
    assert y.shape == (20, 33, *size)
    assert y.max() == 16 * np.prod(kernel)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 2, (24, 49)), ((3, 2), (2, 1), (24, 99))], ids=str)
def test_max_pool2d_shapes(ops: ModuleType, kernel: Any, stride: Any, size: tuple[int, int]) -> None:
    assert ops.max_pool2d(np.ones((20, 16, 50, 100), np.float32), kernel, stride).shape == (20, 16, *size)


@pytest.mark.parametrize("size", [5, 8])
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_output_sizes(ops: ModuleType, size: int, kernel: int, stride: int, padding: int) -> None:
    x, w = np.ones((1, 1, size)), np.ones((1, 1, kernel))
    for dilation in (1, 2):
        y = ops.conv1d(x, w, None, stride, padding, dilation)
        assert y.shape[2] == (size + 2 * padding - kernel - (kernel - 1) * (dilation - 1)) // stride + 1
    if stride * (size - 1) + kernel > 2 * padding:
        for extra in range(stride):
            y = ops.conv_transpose1d(x, w, None, stride, padding, extra)
            assert y.shape[2] == stride * (size - 1) + kernel - 2 * padding + extra


# --- pooling, forward and backward -----------------------------------------------------------------------------------

FOUR = [[1, 5, 3, 7], [7, 3, 9, 2], [3, 5, 8, 4], [8, 7, 3, 5]]


def test_max_pool(ops: ModuleType) -> None:
    x = image(FOUR)
    y, indices = ops.max_pool2d(x, 2, return_indices=True)
    np.testing.assert_array_equal(y[0, 0], [[7, 9], [8, 8]])
    assert ((y - 1) ** 2).mean() == ops.mse_loss(y, np.ones_like(y)) == 49.5
    dy = ops.mse_loss_backward(y, np.ones_like(y))
    np.testing.assert_array_equal(dy[0, 0], [[3, 4], [3.5, 3.5]])
    dx = ops.max_pool2d_backward(dy, x, indices, 2)
    np.testing.assert_array_equal(dx[0, 0], [[0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 3.5, 0], [3.5, 0, 0, 0]])


def test_max_pool_ties_go_to_the_first_in_row_order(ops: ModuleType) -> None:
    x = image([[1, 2, 5, 5], [2, 2, 5, 5]])
    y, indices = ops.max_pool2d(x, 2, return_indices=True)
    np.testing.assert_array_equal(indices[0, 0], [[1, 2]])
    dx = ops.max_pool2d_backward(np.array([[[[10.0, 20.0]]]]), x, None, 2)
    np.testing.assert_array_equal(dx[0, 0], [[0, 10, 20, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(y[0, 0], [[2, 5]])


def test_avg_pool(ops: ModuleType) -> None:
    x = image(FOUR)
    y = ops.avg_pool2d(x, 2)
    np.testing.assert_array_equal(y[0, 0], [[4, 5.25], [5.75, 5]])
    assert ops.mse_loss(y, np.ones_like(y)) == 16.40625
    dy = ops.mse_loss_backward(y, np.ones_like(y))
    np.testing.assert_array_equal(dy[0, 0], [[1.5, 2.125], [2.375, 2]])
    dx = ops.avg_pool2d_backward(dy, x.shape, 2)
    np.testing.assert_array_equal(dx[0, 0], np.kron(dy[0, 0] / 4, np.ones((2, 2))))


# --- one training step -----------------------------------------------------------------------------------------------


def test_gradients_of_a_small_layer(ops: ModuleType) -> None:
    x = image([[1, 1, 2], [1, 2, 1], [2, 1, 1]])
    w, b = image([[0.6779961, -0.3282364], [0.61954254, -0.02001727]]), np.zeros(1)
    y = ops.relu(ops.conv2d(x, w, b))
    np.testing.assert_array_equal(y, ops.conv2d(x, w, b, activation="relu"))
    ones = np.ones_like(y)
    np.testing.assert_allclose(ops.mse_loss(y, ones), 0.12856321, atol=1e-8)
    dy = ops.relu_backward(ops.mse_loss_backward(y, ones), y)
    _, dw, db = ops.conv2d_backward(dy, x, w)
    np.testing.assert_allclose(dw[0, 0], [[0.83250606, 0.75945675], [0.75945675, 0.4834994]], atol=1e-7)
    np.testing.assert_allclose(db, [0.5188656], atol=1e-7)


# --- parameters ------------------------------------------------------------------------------------------------------


def test_parameters_of_the_first_layer_of_alexnet() -> None:
    assert geometry.parameter_count(3, 96, (11, 11)) == 34_944


def test_parameters_of_vgg16() -> None:
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    features = [geometry.parameter_count(a, b, (3, 3)) for a, b in itertools.pairwise(widths)]
    assert features == [
        1_792, 36_928,
        73_856, 147_584,
        295_168, 590_080, 590_080,
        1_180_160, 2_359_808, 2_359_808,
        2_359_808, 2_359_808, 2_359_808,
    ]  # fmt: skip
    dense = [geometry.parameter_count(a, b) for a, b in ((512 * 7 * 7, 4096), (4096, 4096), (4096, 1000))]
    assert dense == [102_764_544, 16_781_312, 4_097_000]
    assert sum(features + dense) == 138_357_544


def test_parameters_of_four_seven_by_seven_layers() -> None:
    """28x28 pictures shrink by 6 a layer to 4x4."""
    widths = [1, 32, 64, 128, 256]
    size, total = 28, 0
    for a, b in itertools.pairwise(widths):
        total += geometry.parameter_count(a, b, (7, 7))
        size = geometry.conv_output_size(size, 7)
    assert size == 4
    assert total + geometry.parameter_count(256 * 4 * 4, 10) == 2_150_410
