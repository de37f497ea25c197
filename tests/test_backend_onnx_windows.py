"""ONNX's windows against their definition, tap by tap: pads a side, auto_pad, ceil_mode, dilations, indices."""

import random
from math import prod

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'fastconv[onnx]'")

from onnx_models import normal, run_operator
from tolerance import assert_within, bound

import fastconv as fc
from fastconv import reference

pytestmark = pytest.mark.isa_independent

GEOMETRIES = 24  # of each rank
MODES = ("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


def drawn(ndim):
    """Attributes of windows, each of which fits into x; pads may be as large as a kernel less one."""
    rng, found = random.Random(ndim), []
    while len(found) < GEOMETRIES:
        size = tuple(rng.randint(4, 9) for _ in range(ndim))
        kernel, strides, dilations = (tuple(rng.randint(1, n) for _ in range(ndim)) for n in (4, 3, 2))
        window = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "ceil_mode": rng.randint(0, 1)}
        window["auto_pad"] = rng.choice(MODES)
        if window["auto_pad"] == "NOTSET":
            window["pads"] = tuple(rng.randint(0, k - 1) for k in kernel * 2)
        if all(axis.inside for axes in Axes.of(window, size) for axis in axes) and min(map(len, Axes.of(window, size))):
            found.append((size, window))
    return found


class Axes:
    """What one window sees along one axis: the taps inside x, and how many are inside x or its padding."""

    def __init__(self, start, taps, dilation, size, after):
        places = [start + t * dilation for t in range(taps)]
        self.inside = [p for p in places if 0 <= p < size]
        self.counted = sum(p < size + after for p in places)

    @classmethod
    def of(cls, window, size):
        """The windows along each axis."""
        return [cls._along(window, size, axis) for axis in range(len(size))]

    @classmethod
    def _along(cls, window, size, axis):
        n, k, s, d = size[axis], *(window[name][axis] for name in ("kernel_shape", "strides", "dilations"))
        extent = d * (k - 1) + 1
        before, after = pads_of(window, n, extent, s, axis, len(size))
        windows, start = [], -before
        while cls._is_window(window, start, extent, s, n, after):
            windows.append(cls(start, k, d, n, after))
            start += s
        return windows

    @staticmethod
    def _is_window(window, start, extent, stride, n, after):
        """Whether a window begins here: it ends inside; with ceil_mode the one before did not reach the end, and it
        begins before the padding behind x; with SAME there is one for each stride's inputs.
        """
        if window["auto_pad"].startswith("SAME"):
            return start + extent <= n + after
        if start + extent <= n + after:
            return True
        return bool(window["ceil_mode"]) and start - stride + extent < n + after and start < n


def pads_of(window, n, extent, stride, axis, ndim):
    """(before, after) along an axis."""
    if window["auto_pad"] == "NOTSET":
        return window["pads"][axis], window["pads"][ndim + axis]
    if window["auto_pad"] == "VALID":
        return 0, 0
    total = max(0, (-(-n // stride) - 1) * stride + extent - n)
    small = total // 2
    return (small, total - small) if window["auto_pad"] == "SAME_UPPER" else (total - small, small)


def pooled(x, window, reduce):
    """y[o] = reduce(what window o sees of x (N, C, seen), taps that count)."""
    axes = Axes.of(window, x.shape[2:])
    y = np.empty((*x.shape[:2], *map(len, axes)))
    for place in np.ndindex(y.shape[2:]):
        seen = [axis[o] for axis, o in zip(axes, place, strict=True)]
        taps = x[(slice(None), slice(None), *np.ix_(*(a.inside for a in seen)))]
        y[(..., *place)] = reduce(taps.reshape(*x.shape[:2], -1), prod(a.counted for a in seen))
    return y


def shown(value):
    """A size, or windows, as a test's name."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else f"{value['auto_pad']}-{value['kernel_shape']}"


GEOMETRIES_OF_ALL = [case for ndim in (1, 2, 3) for case in drawn(ndim)]
geometries = pytest.mark.parametrize(("size", "window"), GEOMETRIES_OF_ALL, ids=shown)


@geometries
def test_max_pool(size, window):
    x = normal(2, 3, *size)
    for order in (0, 1):
        y, indices = run_operator("MaxPool", x, outputs=2, storage_order=order, **window)
        np.testing.assert_array_equal(y, pooled(x, window, lambda taps, _: taps.max(-1)).astype(np.float32))
        planes = x if order == 0 else x.transpose(0, 1, *range(x.ndim - 1, 1, -1))
        np.testing.assert_array_equal(planes.reshape(-1)[indices], y)


@geometries
def test_average_pool(size, window):
    x = normal(2, 3, *size, dtype=np.float64)
    limit = bound(np.float64, prod(window["kernel_shape"]), x, np.ones(1))
    y = run_operator("AveragePool", x, **window)
    assert_within(y, pooled(x, window, lambda taps, _: taps.mean(-1)), limit, np.float64)
    y = run_operator("AveragePool", x, count_include_pad=1, **window)
    assert_within(y, pooled(x, window, lambda taps, counted: taps.sum(-1) / counted), limit, np.float64)


@geometries
@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(size, window, p):
    x = normal(1, 2, *size, dtype=np.float64)
    exact = pooled(x, window, lambda taps, _: (np.abs(taps) ** p).sum(-1) ** (1 / p))
    taps = prod(window["kernel_shape"])
    assert_within(run_operator("LpPool", x, p=p, **window), exact, bound(np.float64, taps, x, x), np.float64)


def without_ceil(window):
    """The same windows but for partial ones behind the padding, which convolutions have none of."""
    return {name: value for name, value in window.items() if name != "ceil_mode"}


@pytest.mark.parametrize(
    ("size", "window"),
    [(size, w) for size, w in GEOMETRIES_OF_ALL if min(map(len, Axes.of({**w, "ceil_mode": 0}, size)))],
    ids=shown,
)
def test_conv(size, window):
    """The weight packed ahead, and given; against PyTorch's convolution of the padded x."""
    weight, bias = normal(4, 2, *window["kernel_shape"], seed=1), normal(4, seed=2)
    x = normal(2, 4, *size)
    axes = enumerate(zip(size, window["kernel_shape"], window["strides"], window["dilations"], strict=True))
    pads = [pads_of(window, n, d * (k - 1) + 1, s, axis, len(size)) for axis, (n, k, s, d) in axes]
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *pads))
    function = getattr(torch.nn.functional, f"conv{len(size)}d")
    arrays = (torch.from_numpy(a.astype(np.float64)) for a in (padded, weight, bias))
    exact = function(*arrays, window["strides"], 0, window["dilations"], 2).numpy()
    limit = bound(np.float32, 2 * prod(window["kernel_shape"]), x, weight)
    for constants in ((1, 2), ()):
        y = run_operator("Conv", x, weight, bias, constants=constants, group=2, **without_ceil(window))
        assert_within(y, exact, limit)


@pytest.mark.parametrize("constants", [(1, 2), ()], ids=["packed", "given"])
@pytest.mark.parametrize(
    ("attributes", "begin", "end"),
    [
        ({}, (0, 0), (12, 15)),
        ({"pads": [1, 0, 0, 2]}, (1, 0), (12, 13)),
        ({"output_padding": [1, 2]}, (0, 0), (13, 17)),
        ({"auto_pad": "VALID"}, (0, 0), (12, 15)),
        ({"auto_pad": "SAME_UPPER"}, (1, 1), (11, 13)),
        ({"auto_pad": "SAME_LOWER"}, (1, 2), (11, 14)),
        ({"output_shape": [9, 12]}, (2, 2), (11, 14)),
        ({"output_shape": [9, 12], "auto_pad": "SAME_UPPER"}, (1, 1), (10, 13)),
        ({"output_shape": [9, 12], "auto_pad": "SAME_UPPER", "output_padding": [1, 0]}, (2, 1), (11, 13)),
        ({"output_shape": [13, 17]}, (0, 0), (13, 17)),
        ({"output_shape": [1, 2, 20, 30]}, (0, 0), (20, 30)),
    ],
    ids=str,
)
def test_conv_transpose(attributes, begin, end, constants):
    """The part begin .. end of the whole result, behind whose 12 x 15 positions there is nothing but the bias."""
    x, weight, bias = normal(2, 4, 5, 4), normal(4, 3, 4, 6, seed=1), normal(6, seed=2)
    arrays = (torch.from_numpy(a.astype(np.float64)) for a in (x, weight))
    whole = torch.nn.functional.conv_transpose2d(*arrays, stride=(2, 3), groups=2).numpy()
    assert whole.shape == (2, 6, 12, 15)
    room = np.zeros((2, 6, 40, 40))
    room[..., :12, :15] = whole
    exact = (room + bias.astype(np.float64).reshape(-1, 1, 1))[..., begin[0] : end[0], begin[1] : end[1]]
    y = run_operator("ConvTranspose", x, weight, bias, constants=constants, strides=[2, 3], group=2, **attributes)
    assert_within(y, exact, bound(np.float32, 2 * 24, x, weight))


def test_conv_transpose_same_of_a_kernel_below_its_stride():
    """The output is the input's size times the stride, however little of it is reached."""
    x, weight = normal(1, 2, 5), normal(2, 3, 2, seed=1)
    y = run_operator("ConvTranspose", x, weight, strides=[4], auto_pad="SAME_UPPER")
    exact = np.zeros((1, 3, 20))
    exact[..., :18] = fc.conv_transpose1d(x, weight, stride=4)
    assert_within(y, exact, bound(np.float32, 4, x, weight))


def test_not_a_number_wins_a_max_pool():
    x = normal(1, 2, 6, 6)
    x[0, 1, 3, 2] = np.nan
    y = run_operator("MaxPool", x, kernel_shape=[3, 3], pads=[2, 2, 2, 2])
    padded = torch.nn.functional.pad(torch.from_numpy(x), (2, 2, 2, 2), value=-np.inf)
    np.testing.assert_array_equal(y, torch.nn.functional.max_pool2d(padded, 3, 1).numpy())
    assert np.isnan(y).sum() == 9


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_max_pool_of_bytes(dtype):
    x = np.random.default_rng(0).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (2, 3, 7, 7), dtype, endpoint=True)
    y, indices = run_operator("MaxPool", x, outputs=2, kernel_shape=[3, 2], strides=[2, 2])
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, fc.max_pool2d(x.astype(np.float32), (3, 2), 2))
    np.testing.assert_array_equal(x.reshape(-1)[indices], y)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_max_unpool_gives_back_what_a_max_pool_took(ndim):
    """Of an x that kernel and strides alone do not tell the shape of, so that output_shape does."""
    x = normal(2, 3, *(7, 8, 5)[:ndim])
    window = {"kernel_shape": [2] * ndim, "strides": [2] * ndim}
    y, indices = run_operator("MaxPool", x, outputs=2, **window)
    exact = np.zeros_like(x)
    exact.reshape(-1)[indices] = y
    back = run_operator("MaxUnpool", y, indices, np.array(x.shape), **window)
    np.testing.assert_array_equal(back, exact)


def test_max_unpool_of_indices_that_lie_outside():
    from fastconv.backends.onnx import ModelError

    x = normal(1, 1, 2, 2)
    with pytest.raises(ModelError, match=r"MaxUnpool .* I must lie in 0 \.\. 15"):
        run_operator("MaxUnpool", x, np.array([[[[0, 1], [2, 16]]]]), kernel_shape=[2, 2], strides=[2, 2])


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
@pytest.mark.parametrize("size", [(), (6,), (4, 5), (3, 2, 4), (2, 3, 2, 2)], ids=str)
def test_global_pools(op, size):
    x = normal(2, 3, *size)
    reduce = {
        "GlobalAveragePool": lambda a: a.mean(2),
        "GlobalMaxPool": lambda a: a.max(2),
        "GlobalLpPool": lambda a: np.sqrt(np.square(a).sum(2)),
    }[op]
    exact = reduce(x.astype(np.float64).reshape(2, 3, -1)).reshape(2, 3, *(1,) * len(size))
    assert_within(run_operator(op, x), exact, bound(np.float32, prod(size), x, x), np.float32)


def test_deform_conv():
    x, weight, bias = normal(2, 4, 7, 6), normal(6, 2, 3, 2, seed=1), normal(6, seed=2)
    size = (7, 6)
    offset, mask = normal(2, 2 * 2 * 6, *size, seed=3), normal(2, 2 * 6, *size, seed=4)
    y = run_operator(
        "DeformConv", x, weight, offset, bias, mask, pads=[1, 0, 1, 1], group=2, offset_group=2, kernel_shape=[3, 2]
    )
    wide = [a.astype(np.float64) for a in (x, offset, weight, bias)]
    exact = reference.deform_conv2d(*wide, padding=((1, 1), (0, 1)), mask=mask.astype(np.float64))
    # A sample's place is rounded before it is interpolated, at up to 10 pixels from the first.
    slack = 4 * np.finfo(np.float32).eps * 16 * 12 * np.abs(x).max() * np.abs(weight).max() * np.abs(mask).max()
    assert_within(y, exact, slack, np.float32)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_col2im(ndim):
    image, block = np.array((6, 7, 5)[:ndim]), np.array((2, 3, 2)[:ndim])
    strides, dilations, pads = (2, 1, 1)[:ndim], (1, 2, 1)[:ndim], ((1, 0, 1)[:ndim], (0, 2, 1)[:ndim])
    pairs = tuple(zip(*pads, strict=True))
    extent = np.multiply(dilations, block - 1) + 1
    windows = prod(((image + np.sum(pads, 0) - extent) // strides + 1).tolist())
    x = normal(2, 3 * prod(block.tolist()), windows)
    y = run_operator("Col2Im", x, image, block, strides=strides, dilations=dilations, pads=[*pads[0], *pads[1]])
    exact = reference.fold(x.astype(np.float64), tuple(image), tuple(block), dilations, pairs, strides)
    assert_within(y, exact, bound(np.float32, prod(block.tolist()), x, np.ones(1)), np.float32)
