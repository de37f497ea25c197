"""What holds of every pool: bits for any number of threads, views, out, errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import LAYOUTS, laid_out, values
from conftest import each, using_threads
from pools import LARGE, case_of, operator, rough, undilated
from views import draw, views

import fastconv.functional as ff


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", LARGE)
def test_bits_do_not_depend_on_the_number_of_threads(name, layout, isa):
    case = undilated(case_of(name, "float32"))
    x = laid_out(values(case.x, 0), layout, "float32")
    sums = {"data_format": layout, **case.sums}

    def results() -> list[np.ndarray]:
        avg, lp = operator(ff, "avg_pool", case.ndim), operator(ff, "lp_pool", case.ndim)
        y = avg(x, padding=case.padding, **sums)
        return [
            y,
            operator(ff, "avg_pool", case.ndim, "_backward")(y, x.shape, padding=case.padding, **sums),
            operator(ff, "max_pool", case.ndim, "_backward")(y, x, None, padding=case.padding, **sums),
            lp(np.abs(x), 2, **sums),
        ]

    with using_threads(1):
        expected = results()
    for count in (2, 5):
        with using_threads(count):
            for ours, serial in zip(results(), expected, strict=True):
                np.testing.assert_array_equal(ours.view(np.uint32), serial.view(np.uint32))


def calls(layout: str) -> dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]]:
    """Every operator as a function of its arrays, and those."""
    x = laid_out(rough((2, 5, 9, 11)), layout, "float64")
    window = {"kernel_size": 3, "stride": 2, "padding": 1, "data_format": layout}
    y, indices = ff.max_pool2d(x, return_indices=True, **window)
    grad_y, positive = laid_out(values((2, 5, 5, 6), 1), layout, "float64"), np.abs(np.nan_to_num(x)) + 1
    positive[np.isinf(positive)] = 2
    lp, unpool = {"norm_type": 2, "kernel_size": 2, "data_format": layout}, {**window, "output_size": (9, 11)}
    grad_lp = ff.lp_pool2d(positive, **lp)
    full = laid_out(values((2, 5, 9, 11), 2), layout, "float64")
    size, channel = {"output_size": 4, "data_format": layout}, {"data_format": layout}
    grad_size = ff.adaptive_avg_pool2d(full, **size)
    grad_channel = ff.global_avg_pool(full, **channel)
    return {
        "max_pool2d": (lambda x, **o: ff.max_pool2d(x, **window, **o), (x,)),
        "max_pool2d_backward": (
            lambda g, x, i, **o: ff.max_pool2d_backward(g, x, i, **window, **o),
            (grad_y, x, indices),
        ),
        "max_unpool2d": (lambda x, i, **o: ff.max_unpool2d(x, i, **unpool, **o), (y, indices)),
        "max_unpool2d_backward": (lambda g, i, **o: ff.max_unpool2d_backward(g, i, **unpool, **o), (full, indices)),
        "avg_pool2d": (lambda x, **o: ff.avg_pool2d(x, **window, **o), (full,)),
        "avg_pool2d_backward": (lambda g, **o: ff.avg_pool2d_backward(g, x.shape, **window, **o), (grad_y,)),
        "lp_pool2d": (lambda x, **o: ff.lp_pool2d(x, **lp, **o), (positive,)),
        "lp_pool2d_backward": (lambda g, x, **o: ff.lp_pool2d_backward(g, x, **lp, **o), (grad_lp, positive)),
        "adaptive_avg_pool2d": (lambda x, **o: ff.adaptive_avg_pool2d(x, **size, **o), (full,)),
        "adaptive_avg_pool2d_backward": (
            lambda g, **o: ff.adaptive_avg_pool2d_backward(g, x.shape, **size, **o),
            (grad_size,),
        ),
        "adaptive_max_pool2d": (lambda x, **o: ff.adaptive_max_pool2d(x, **size, **o), (x,)),
        "adaptive_max_pool2d_backward": (
            lambda g, x, **o: ff.adaptive_max_pool2d_backward(g, x, None, **size, **o),
            (grad_size, x),
        ),
        "global_avg_pool": (lambda x, **o: ff.global_avg_pool(x, **channel, **o), (full,)),
        "global_avg_pool_backward": (
            lambda g, **o: ff.global_avg_pool_backward(g, x.shape, **channel, **o),
            (grad_channel,),
        ),
        "global_max_pool": (lambda x, **o: ff.global_max_pool(x, **channel, **o), (x,)),
        "global_max_pool_backward": (
            lambda g, x, **o: ff.global_max_pool_backward(g, x, **channel, **o),
            (grad_channel, x),
        ),
    }


OPERATORS = tuple(calls("channels_first"))


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", OPERATORS)
def test_views_are_read_and_left_alone(name, layout):
    call, arrays = calls(layout)[name]
    expected = call(*arrays)
    for kinds in zip(*(views(a) for a in arrays), strict=True):
        np.testing.assert_array_equal(call(*(view for _, view in kinds)), expected, err_msg=kinds[0][0])
        for (_, view), array in zip(kinds, arrays, strict=True):
            np.testing.assert_array_equal(view, array, err_msg=kinds[0][0])


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", OPERATORS)
def test_out_is_filled_and_returned(name, layout):
    call, arrays = calls(layout)[name]
    expected = call(*arrays)
    memory = np.full(expected.size + 129, np.nan)
    out = memory[65:-64].reshape(expected.shape)
    assert call(*arrays, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert np.isnan(memory[:65]).all()
    assert np.isnan(memory[-64:]).all()
    with pytest.raises(ValueError, match=r"out must have shape"):
        call(*arrays, out=np.empty((3, 3)))
    with pytest.raises(TypeError, match="out must have dtype float64"):
        call(*arrays, out=np.empty(expected.shape, np.float32))
    shared = np.zeros(max(expected.size, arrays[0].size))
    shared[: arrays[0].size] = arrays[0].ravel()
    with pytest.raises(ValueError, match="share memory"):
        call(
            shared[: arrays[0].size].reshape(arrays[0].shape),
            *arrays[1:],
            out=shared[: expected.size].reshape(expected.shape),
        )


@each(layout=LAYOUTS)
def test_unbatched_is_a_batch_of_one(layout):
    x = laid_out(values((1, 3, 9, 8), 0), layout, "float32")
    options = {"kernel_size": 3, "stride": 2, "data_format": layout}
    y, indices = ff.max_pool2d(x[0], return_indices=True, **options)
    batch = ff.max_pool2d(x, return_indices=True, **options)
    np.testing.assert_array_equal(y, batch[0][0])
    np.testing.assert_array_equal(indices, batch[1][0])
    grad_x = ff.max_pool2d_backward(y, x[0], indices, **options)
    np.testing.assert_array_equal(grad_x, ff.max_pool2d_backward(*batch[:1], x, batch[1], **options)[0])
    np.testing.assert_array_equal(
        ff.avg_pool2d_backward(y, x[0].shape, **options), ff.avg_pool2d_backward(batch[0], x.shape, **options)[0]
    )
    back = ff.max_unpool2d(y, indices, output_size=(9, 8), **options)
    assert back.shape == x[0].shape
    assert ff.max_unpool2d_backward(back, indices, output_size=(9, 8), **options).shape == y.shape
    assert ff.adaptive_avg_pool2d(x[0], 2, data_format=layout).ndim == 3
    assert ff.lp_pool2d(x[0], 2, 2, data_format=layout).ndim == 3


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_numpy_integers_and_tuples_are_numbers(name):
    x = draw(2, 3, 9, 8)
    expected = getattr(ff, name)(x, 2, 1, 1)
    for two, one in ((np.int64(2), np.int32(1)), ((2,), (1,)), ([2, 2], [1, 1]), ((2, np.int8(2)), (np.int8(1), 1))):
        np.testing.assert_array_equal(getattr(ff, name)(x, two, one, one), expected)


def test_the_lectures_pools():
    x = np.array([[1, 5, 3, 7], [7, 3, 9, 2], [3, 5, 8, 4], [8, 7, 3, 5]], float).reshape(1, 1, 4, 4)
    y = ff.max_pool2d(x, 2)
    np.testing.assert_array_equal(y[0, 0], [[7, 9], [8, 8]])
    assert ((y - 1) ** 2).mean() == 49.5
    grad_y = (y - 1) / 2
    np.testing.assert_array_equal(grad_y[0, 0], [[3, 4], [3.5, 3.5]])
    expected = [[0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 3.5, 0], [3.5, 0, 0, 0]]
    np.testing.assert_array_equal(ff.max_pool2d_backward(grad_y, x, None, 2)[0, 0], expected)
    y = ff.avg_pool2d(x, 2)
    np.testing.assert_array_equal(y[0, 0], [[4, 5.25], [5.75, 5]])
    assert ((y - 1) ** 2).mean() == 16.40625
    grad_y = (y - 1) / 2
    np.testing.assert_array_equal(grad_y[0, 0], [[1.5, 2.125], [2.375, 2]])
    np.testing.assert_array_equal(
        ff.avg_pool2d_backward(grad_y, x.shape, 2)[0, 0], np.kron(grad_y[0, 0], np.ones((2, 2))) / 4
    )


def test_ceil_mode_counts_padding_but_no_overhang():
    y = ff.avg_pool1d(np.ones((1, 1, 6)), 3, 3, 1, ceil_mode=True)
    np.testing.assert_allclose(y[0, 0], [2 / 3, 1, 0.5], rtol=1e-15)


def test_lp_takes_no_absolute_value():
    x = np.array([[[-3.0, 1.0, -2.0, -2.0]]])
    np.testing.assert_allclose(ff.lp_pool1d(x, 1, 2), [[[-2, -4]]])
    np.testing.assert_allclose(ff.lp_pool1d(x, 2, 2), np.sqrt([[[10, 8]]]))
    with np.errstate(invalid="ignore"):
        assert np.isnan(ff.lp_pool1d(x, 3, 2)).all()
    # where the sum is 0 there is no slope
    np.testing.assert_array_equal(
        ff.lp_pool1d_backward(np.ones((1, 1, 2)), np.zeros((1, 1, 4)), 2, 2), np.zeros((1, 1, 4))
    )


X, Y = np.zeros((2, 3, 8, 8)), np.zeros((2, 3, 4, 4))
INDICES = np.zeros((2, 3, 4, 4), np.int64)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ff.max_pool2d(X.astype(int), 2), TypeError, "x must be float32 or float64, got dtype int64"),
        (lambda: ff.max_pool2d(X.astype(">f8"), 2), TypeError, "byte order"),
        (lambda: ff.max_pool2d(X.tolist(), 2), TypeError, "x must be a NumPy array"),
        (lambda: ff.max_pool2d(X[0, 0], 2), ValueError, "x must have 3 or 4 dimensions"),
        (lambda: ff.max_pool2d(X, 2.0), TypeError, "kernel_size must be an integer"),
        (lambda: ff.max_pool2d(X, True), TypeError, "kernel_size must be an integer"),
        (lambda: ff.max_pool2d(X, (2, 2.0)), TypeError, "kernel_size must be an integer"),
        (lambda: ff.max_pool2d(X, 0), ValueError, "kernel_size must be >= 1"),
        (lambda: ff.max_pool2d(X, 2, 0), ValueError, "stride must be >= 1"),
        (lambda: ff.max_pool2d(X, 2, -1), ValueError, "stride must be >= 1"),
        (lambda: ff.max_pool2d(X, 2, padding=-1), ValueError, "padding must be >= 0"),
        (lambda: ff.max_pool2d(X, 2, padding=2), ValueError, "padding must be at most half"),
        (lambda: ff.max_pool2d(X, 9), ValueError, "kernel_size must fit into the padded input"),
        (lambda: ff.max_pool2d(X, 2, dilation=0), ValueError, "dilation must be >= 1"),
        (lambda: ff.max_pool2d(X, 2, dilation=2**62), ValueError, "kernel_size must fit|dilation must keep"),
        (lambda: ff.max_pool2d(X, 2, ceil_mode=1), TypeError, "ceil_mode must be True or False"),
        (lambda: ff.max_pool2d(X, 2, return_indices=1), TypeError, "return_indices must be True or False"),
        (lambda: ff.max_pool2d(X, 2, data_format="NCHW"), ValueError, "data_format must be"),
        (lambda: ff.max_pool2d(X[:, :, :0], 1), ValueError, "no zero size"),
        (lambda: ff.max_pool2d(X[:, :0], 1), ValueError, "no zero size"),
        (lambda: ff.avg_pool2d(X, 2, divisor_override=0), ValueError, "divisor_override must not be 0"),
        (lambda: ff.avg_pool2d(X, 2, divisor_override=1.5), TypeError, "divisor_override must be an integer"),
        (lambda: ff.avg_pool2d(X, 2, count_include_pad=0), TypeError, "count_include_pad must be True or False"),
        (lambda: ff.avg_pool2d_backward(Y[:1], X.shape, 2), ValueError, "grad_y must have shape"),
        (lambda: ff.avg_pool2d_backward(Y, X.shape[1:], 2), ValueError, "grad_y must have shape"),
        (lambda: ff.lp_pool2d(X, 0, 2), ValueError, "norm_type must be finite and not 0"),
        (lambda: ff.lp_pool2d(X, np.inf, 2), ValueError, "norm_type must be finite and not 0"),
        (lambda: ff.lp_pool2d(X, "2", 2), TypeError, "norm_type must be a number"),
        (lambda: ff.lp_pool2d_backward(Y.astype("f4"), X, 2, 2), TypeError, "grad_y must have the dtype of x"),
        (lambda: ff.max_pool2d_backward(Y, X, INDICES.astype("i4"), 2), TypeError, "indices must be an int64 array"),
        (lambda: ff.max_pool2d_backward(Y, X, INDICES[:1], 2), ValueError, "indices must have shape"),
        (lambda: ff.max_pool2d_backward(Y, X, INDICES + 64, 2), ValueError, r"indices must lie in 0 \.\. 63"),
        (lambda: ff.max_pool2d_backward(Y, X, INDICES - 2, 2), ValueError, r"indices must lie in 0 \.\. 63"),
        (lambda: ff.max_pool2d_backward(Y, X, INDICES + 2**33, 2), ValueError, r"indices must lie in 0 \.\. 63"),
        (lambda: ff.max_unpool2d(Y, INDICES + 64, 2), ValueError, r"indices must lie in 0 \.\. 63, .*, got 64 \.\. 64"),
        (lambda: ff.max_unpool2d(Y, INDICES - 1, 2), ValueError, r"indices must lie in 0 \.\. 63"),
        (lambda: ff.max_unpool2d(Y, None, 2), TypeError, "indices must be an int64 array"),
        (lambda: ff.max_unpool2d(Y, INDICES, 2, output_size=(12, 8)), ValueError, "output_size must be less than"),
        (lambda: ff.max_unpool2d_backward(Y, INDICES, 2), ValueError, r"grad_y must have shape \(2, 3, 8, 8\)"),
        (lambda: ff.max_unpool2d_backward(X, None, 2), TypeError, "indices must be an int64 array"),
        (lambda: ff.adaptive_avg_pool2d(X, 0), ValueError, "output_size must be >= 1"),
        (lambda: ff.adaptive_avg_pool2d(X, (2, 2.0)), TypeError, "output_size must be an integer"),
        (lambda: ff.adaptive_max_pool2d_backward(Y, X, INDICES, 3), ValueError, "grad_y must have shape"),
        (lambda: ff.global_avg_pool(X[0, 0]), ValueError, "x must have 3 or 4 or 5 dimensions"),
        (lambda: ff.global_avg_pool_backward(Y[:, :, 0, 0], (2, 3)), ValueError, "x_shape must have 3 to 5 dimensions"),
        (lambda: ff.global_max_pool_backward(Y[:1, :, 0, 0], X), ValueError, "grad_y must have shape"),
    ],
)  # fmt: skip
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_equal_numbers_of_other_types_are_still_refused():
    ff.max_pool2d(X, 2, (2, 2))  # now there is a plan for 2
    for kernel, stride in ((2.0, 2), (2, (2.0, 2)), (2, 2.0)):
        with pytest.raises(TypeError):
            ff.max_pool2d(X, kernel, stride)
    ff.avg_pool2d(X, 1)
    with pytest.raises(TypeError):
        ff.avg_pool2d(X, True)


def test_a_bad_index_leaves_out_untouched():
    out = np.full(X.shape, 7.0)
    bad = INDICES.copy()
    bad[-1, -1, -1, -1] = 64
    for call in (
        lambda: ff.max_unpool2d(Y, bad, 2, out=out),
        lambda: ff.max_pool2d_backward(Y, X, bad, 2, out=out),
    ):
        with pytest.raises(ValueError, match="indices must lie"):
            call()
        assert (out == 7).all()


def test_planes_whose_elements_have_no_number():
    # 2**31 elements by way of a stride of 0: an error before the view is made contiguous
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1, 1, 2**16, 2**15), (0, 0, 0, 0))
    with pytest.raises(ValueError, match="x must have less than 2147483648 elements a plane"):
        ff.max_pool2d(x, 2**14, return_indices=True)
