"""Unfold and fold against the oracle and PyTorch: results are copies, or sums of few terms."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, LAYOUTS, laid_out, values
from conftest import each, using_threads
from tolerance import assert_within, bound
from views import draw, views

import fastconv.functional as ff
from fastconv import reference

pytestmark = pytest.mark.isa_independent


@dataclass(frozen=True)
class Windows:
    """Windows of x (N, C, *size)."""

    x: tuple[int, ...]
    kernel_size: tuple[int, ...]
    dilation: Any = 1
    padding: Any = 0
    stride: Any = 1

    @property
    def options(self) -> dict[str, Any]:
        names = ("kernel_size", "dilation", "padding", "stride")
        return {name: getattr(self, name) for name in names}


WINDOWS = {
    "one-element": Windows((1, 1, 1), (1,)),
    "one-pixel": Windows((2, 3, 1, 1), (3, 3), padding=1),
    "empty-batch": Windows((0, 3, 5, 6), (2, 3)),
    "1d": Windows((2, 3, 13), (4,), 2, 3, 2),
    "2d": Windows((2, 5, 7, 9), (3, 2)),
    "2d-same": Windows((2, 5, 7, 9), (3, 4), 1, "same"),
    "2d-one-channel": Windows((3, 1, 8, 9), (3, 3), 1, 1, 2),
    "2d-unequal-everything": Windows((2, 4, 11, 12), (2, 3), (3, 2), (4, 1), (2, 3)),
    "2d-pairs": Windows((1, 3, 5, 6), (2, 2), 1, ((0, 3), (2, 0))),
    "2d-taps-in-padding-alone": Windows((1, 2, 3, 3), (3, 3), 4, 4),
    "2d-stride-beyond-kernel": Windows((2, 3, 11, 10), (2, 2), 1, 0, (5, 4)),
    "3d": Windows((2, 3, 4, 5, 6), (2, 3, 2), 1, (1, 0, 1), (1, 2, 1)),
    "threaded": Windows((3, 17, 40, 41), (3, 3), 1, 1),
    "threaded-strided": Windows((1, 40, 61, 60), (5, 3), (1, 2), 2, 2),
    "threaded-one-image": Windows((1, 70, 34, 33), (3, 3), 1, 1),
}
LARGE = [name for name in WINDOWS if name.startswith("threaded")]


def columns_of(layout: str, columns: np.ndarray, dtype: str) -> np.ndarray:
    return laid_out(columns, layout, dtype)


def check(case: Windows, dtype: str, layout: str) -> None:
    """All four, unfold and fold_backward by copying, fold and unfold_backward by adding."""
    options = {**case.options, "data_format": layout}
    image, size = laid_out(values(case.x, 0), layout, dtype), case.x[2:]
    columns = reference.unfold(image, **options)
    np.testing.assert_array_equal(ff.unfold(image, **options), columns, strict=True)
    ours = ff.fold_backward(image, columns.shape, output_size=size, **options)
    np.testing.assert_array_equal(ours, columns, strict=True)
    columns = columns_of(layout, values(reference.unfold(values(case.x, 0), **case.options).shape, 1), dtype)
    exact = reference.fold(columns.astype(float), size, **options)
    limit = bound(dtype, np.prod(case.kernel_size), columns, np.ones(1))
    assert_within(ff.fold(columns, size, **options), exact, limit, dtype)
    assert_within(ff.unfold_backward(columns, image.shape, **options), exact, limit, dtype)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", [name for name in WINDOWS if name not in LARGE])
def test_windows(name, dtype, layout):
    check(WINDOWS[name], dtype, layout)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", LARGE)
def test_windows_in_a_team(name, dtype, layout, threads):
    check(WINDOWS[name], dtype, layout)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", LARGE)
def test_bits_do_not_depend_on_the_number_of_threads(name, layout):
    case = WINDOWS[name]
    image = laid_out(values(case.x, 0), layout, "float32")
    options = {**case.options, "data_format": layout}
    results = []
    for count in (1, 2, 5):
        with using_threads(count):
            columns = ff.unfold(image, **options)
            results.append(ff.fold(columns * np.float32(0.3), case.x[2:], **options))
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.uint32), results[0].view(np.uint32))


def test_two_axes_are_torch_s():
    x = draw(2, 3, 8, 7)
    for kernel, dilation, padding, stride in product((1, 2, (2, 3)), (1, 2), (0, 1, (2, 0)), (1, 2, (3, 1))):
        options = {"kernel_size": kernel, "dilation": dilation, "padding": padding, "stride": stride}
        leaf = torch.tensor(x, requires_grad=True)
        columns = F.unfold(leaf, **options)
        np.testing.assert_array_equal(ff.unfold(x, **options), columns.detach().numpy())
        grad = draw(*columns.shape, seed=1)
        columns.backward(torch.tensor(grad))
        ours = ff.unfold_backward(grad, x.shape, **options)
        np.testing.assert_allclose(ours, leaf.grad.numpy(), rtol=1e-13, atol=1e-13)
        leaf = torch.tensor(grad, requires_grad=True)
        image = F.fold(leaf, (8, 7), **options)
        np.testing.assert_allclose(ff.fold(grad, (8, 7), **options), image.detach().numpy(), rtol=1e-13, atol=1e-13)
        image.backward(torch.tensor(x))
        ours = ff.fold_backward(x, grad.shape, (8, 7), **options)
        np.testing.assert_array_equal(ours, leaf.grad.numpy())


def test_a_convolution_is_a_matrix_product():
    x, weight = draw(2, 3, 6, 5, 7), draw(4, 3, 2, 3, 2)
    columns = ff.unfold(x, (2, 3, 2), dilation=(1, 1, 2), padding=1, stride=2)
    y = ff.conv3d(x, weight, dilation=(1, 1, 2), padding=1, stride=2)
    np.testing.assert_allclose((weight.reshape(4, -1) @ columns).reshape(y.shape), y, rtol=1e-12, atol=1e-12)


def test_the_number_of_axes_follows_from_the_arguments():
    x = draw(2, 3, 6, 5)
    np.testing.assert_array_equal(ff.unfold(x, 2), ff.unfold(x, (2, 2)))
    np.testing.assert_array_equal(ff.unfold(x[0], (2, 2)), ff.unfold(x, (2, 2))[0])
    columns = ff.unfold(x, 2)
    for size, kernel in ((np.array((6, 5)).tolist(), 2), ((6, 5), (2, 2))):
        np.testing.assert_array_equal(ff.fold(columns, size, kernel), reference.fold(columns, (6, 5), 2))
    np.testing.assert_array_equal(ff.fold(columns[0], (6, 5), 2), ff.fold(columns, (6, 5), 2)[0])
    assert ff.fold(draw(2, 12, 9), 4, 2).shape == (2, 3, 4, 4)
    assert ff.fold(draw(2, 12, 3), (4,), 2).shape == (2, 6, 4)
    assert ff.fold_backward(draw(3, 6, 5), columns[0].shape, (6, 5), 2).shape == columns[0].shape
    assert ff.unfold_backward(columns[0], x[0].shape, (2, 2)).shape == x[0].shape


CALLS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "unfold": (lambda x, **o: ff.unfold(x, 2, **o), (2, 3, 4, 5)),
    "unfold_backward": (lambda g, **o: ff.unfold_backward(g, (2, 3, 4, 5), 2, **o), (2, 12, 12)),
    "fold": (lambda x, **o: ff.fold(x, (4, 5), 2, **o), (2, 12, 12)),
    "fold_backward": (lambda g, **o: ff.fold_backward(g, (2, 12, 12), (4, 5), 2, **o), (2, 3, 4, 5)),
}


@pytest.mark.parametrize("name", CALLS)
def test_views_and_out(name):
    call, shape = CALLS[name]
    x = draw(*shape)
    expected = call(x)
    for kind, view in views(x):
        np.testing.assert_array_equal(call(view), expected, err_msg=kind)
        np.testing.assert_array_equal(view, x, err_msg=kind)
    memory = np.full(expected.size + 2, np.nan)
    out = memory[1:-1].reshape(expected.shape)
    assert call(x, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert np.isnan(memory[[0, -1]]).all()
    with pytest.raises(ValueError, match="out must have shape"):
        call(x, out=np.empty((2, 2)))
    memory = np.zeros(max(x.size, expected.size))
    with pytest.raises(ValueError, match="share memory"):
        call(memory[: x.size].reshape(shape), out=memory[: expected.size].reshape(expected.shape))


X, COLUMNS = np.zeros((2, 3, 4, 5)), np.zeros((2, 12, 12))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: ff.unfold(X.astype(int), 2), TypeError, "x must be float32 or float64"),
        (lambda: ff.unfold(X, 2.0), TypeError, "kernel_size must be an integer"),
        (lambda: ff.unfold(X, 0), ValueError, "kernel_size must be >= 1"),
        (lambda: ff.unfold(X, 5), ValueError, "kernel_size must fit into the padded input"),
        (lambda: ff.unfold(X, 2, dilation=2**62), ValueError, "kernel_size must fit|dilation must keep"),
        (lambda: ff.unfold(X, 2, padding=-1), ValueError, "padding must be >= 0"),
        (lambda: ff.unfold(X, 2, stride=0), ValueError, "stride must be >= 1"),
        (lambda: ff.unfold(X[0], (2, 2, 2)), ValueError, "x.shape must have 5 dimensions"),
        (lambda: ff.unfold(X[0, 0], 2), ValueError, "x.shape must have 1 to 3 spatial axes"),
        (lambda: ff.unfold(X, 2, data_format="NHWC"), ValueError, "data_format must be"),
        (lambda: ff.unfold_backward(COLUMNS[:, :6], X.shape, 2), ValueError, "grad_y must have shape"),
        (lambda: ff.fold(COLUMNS, (4, 5), 5), ValueError, "x.shape must be|kernel_size must fit"),
        (lambda: ff.fold(COLUMNS, (4, 6), 2), ValueError, "x.shape must be .* with 15 windows"),
        (lambda: ff.fold(COLUMNS[:, :11], (4, 5), 2), ValueError, "multiple of the 4 taps"),
        (lambda: ff.fold(COLUMNS, (4, 5.0), 2), TypeError, "output_size must be an integer"),
        (lambda: ff.fold(X, (4, 5), 2), ValueError, "x must have 2 or 3 dimensions"),
        (lambda: ff.fold_backward(X, (2, 12), (4, 5), 2), ValueError, "x.shape must be|grad_y must have shape"),
        (lambda: ff.fold_backward(X, X.shape, (4, 5), 2), ValueError, "x_shape must have 2 or 3 dimensions"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()
