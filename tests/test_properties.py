"""What must hold for every convolution, whatever the numbers: no oracle is needed to see that it does."""

import hypothesis.strategies as st
import numpy as np
import pytest
from cases import LAYOUTS, Conv, laid_out, values
from hypothesis import assume, given
from tolerance import assert_within, bound

import fastconv.functional as ff

MAX_SIZE = {1: 30, 2: 9, 3: 5}
MAX_KERNEL = {1: 6, 2: 4, 3: 3}


def per_axis(ndim, low, high):
    return st.tuples(*[st.integers(low, high)] * ndim)


@st.composite
def convolutions(draw, ndims=(1, 2, 3), max_stride=4, modes=("zeros",)):
    """A convolution that is legal, in float64."""
    ndim = draw(st.sampled_from(ndims))
    groups = draw(st.integers(1, 3))
    c_in, c_out = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    size, kernel = draw(per_axis(ndim, 1, MAX_SIZE[ndim])), draw(per_axis(ndim, 1, MAX_KERNEL[ndim]))
    pairs = draw(st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * ndim))
    case = Conv(
        (draw(st.integers(1, 3)), groups * c_in, *size),
        (groups * c_out, c_in, *kernel),
        stride=draw(per_axis(ndim, 1, max_stride)),
        padding=pairs,
        dilation=draw(per_axis(ndim, 1, 3)),
        groups=groups,
        padding_mode=draw(st.sampled_from(modes)),
    )
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, case.dilation, strict=True)]
    assume(all(i + sum(p) >= span for i, p, span in zip(size, pairs, spans, strict=True)))
    slack = {"reflect": 1}.get(case.padding_mode, 0)
    assume(case.padding_mode == "zeros" or all(max(p) <= i - slack for i, p in zip(size, pairs, strict=True)))
    return case


ALL_MODES = ("zeros", "reflect", "replicate", "circular")


def conv(case, x, weight, *args, **options):
    return getattr(ff, f"conv{case.ndim}d")(x, weight, *args, **(case.options | options))


def conv_backward(case, grad_y, x, weight, **options):
    return getattr(ff, f"conv{case.ndim}d_backward")(grad_y, x, weight, **(case.options | options))


def operands(case, layout="channels_first"):
    return laid_out(values(case.x, 0), layout, "float64"), values(case.weight, 1)


def limit(case, factor=1):
    """Far above rounding, far below one product; the sums of these cases have no more products than this."""
    terms = max(np.prod(case.weight), np.prod(case.x), np.prod(case.y)) * factor
    return bound("float64", terms, np.ones(1), np.ones(1))


@given(case=convolutions(modes=ALL_MODES), layout=st.sampled_from(LAYOUTS))
def test_backward_is_the_adjoint_of_forward(case, layout):
    """<conv(x), y> = <x, backward_input(y)> = <w, backward_weight(y)>: conv is linear in x and in w."""
    x, weight = operands(case, layout)
    grad_y = laid_out(values(case.y, 3), layout, "float64")
    product = np.vdot(conv(case, x, weight, data_format=layout), grad_y)
    grad_x, grad_weight, grad_bias = conv_backward(case, grad_y, x, weight, data_format=layout)
    assert abs(product - np.vdot(x, grad_x)) <= limit(case, 30)
    assert abs(product - np.vdot(weight, grad_weight)) <= limit(case, 30)
    bias = values((case.channels,), 2)
    with_bias = conv(case, x, weight, bias, data_format=layout)
    assert abs(np.vdot(with_bias, grad_y) - product - bias @ grad_bias) <= limit(case, 30)


@given(case=convolutions(modes=ALL_MODES), layout=st.sampled_from(LAYOUTS), a=st.sampled_from([-3.0, 0.5, 2.0]))
def test_linear_in_x_and_in_the_weight(case, layout, a):
    x, weight = operands(case, layout)
    other_x, other_weight = laid_out(values(case.x, 4), layout, "float64"), values(case.weight, 5)
    y = conv(case, x, weight, data_format=layout)
    combined = conv(case, a * x + other_x, weight, data_format=layout)
    assert_within(combined, a * y + conv(case, other_x, weight, data_format=layout), limit(case, 4))
    combined = conv(case, x, a * weight + other_weight, data_format=layout)
    assert_within(combined, a * y + conv(case, x, other_weight, data_format=layout), limit(case, 4))


@given(case=convolutions(modes=ALL_MODES), layout=st.sampled_from(LAYOUTS))
def test_groups_are_convolutions_side_by_side(case, layout):
    x, weight = operands(case, layout)
    channels = 1 if layout == "channels_first" else -1
    parts = [
        conv(case, part, part_weight, groups=1, data_format=layout)
        for part, part_weight in zip(np.split(x, case.groups, channels), np.split(weight, case.groups), strict=True)
    ]
    y = conv(case, x, weight, data_format=layout)
    assert_within(y, np.concatenate(parts, channels), limit(case))


@given(case=convolutions(modes=ALL_MODES))
def test_layouts_agree(case):
    x, weight = operands(case)
    last = conv(case, laid_out(x, "channels_last", "float64"), weight, data_format="channels_last")
    assert_within(last, laid_out(conv(case, x, weight), "channels_last", "float64"), limit(case))


@given(
    batch=st.integers(1, 3),
    size=per_axis(2, 1, 9),
    c_in=st.integers(1, 40),
    c_out=st.integers(1, 40),
    layout=st.sampled_from(LAYOUTS),
)
def test_a_pointwise_convolution_is_a_matrix_product(batch, size, c_in, c_out, layout):
    x, weight = values((batch, c_in, *size), 0), values((c_out, c_in, 1, 1), 1)
    y = ff.conv2d(laid_out(x, layout, "float64"), weight, data_format=layout)
    expected = np.moveaxis(weight[:, :, 0, 0] @ np.moveaxis(x, 1, 2).reshape(batch, size[0], c_in, size[1]), 1, 2)
    assert_within(y, laid_out(expected, layout, "float64"), bound("float64", c_in, x, weight))


@given(case=convolutions())
def test_dilation_is_a_kernel_stuffed_with_zeros(case):
    x, weight = operands(case)
    shape = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], case.dilation, strict=True)]
    stuffed = np.zeros((*weight.shape[:2], *shape))
    stuffed[(..., *(slice(None, None, d) for d in case.dilation))] = weight
    assert_within(conv(case, x, stuffed, dilation=1), conv(case, x, weight), limit(case))


@given(case=convolutions())
def test_a_stride_drops_outputs_of_stride_one(case):
    x, weight = operands(case)
    dense = conv(case, x, weight, stride=1)[(..., *(slice(None, None, s) for s in case.stride))]
    assert_within(conv(case, x, weight), dense, limit(case))


@given(case=convolutions(modes=ALL_MODES), layout=st.sampled_from(LAYOUTS))
def test_padding_may_be_done_beforehand(case, layout):
    x, weight = operands(case, layout)
    padded = ff.pad(x, case.padding, case.padding_mode, data_format=layout)
    y = conv(case, padded, weight, padding=0, data_format=layout)
    assert_within(conv(case, x, weight, data_format=layout), y, limit(case))


@given(case=convolutions(), layout=st.sampled_from(LAYOUTS))
def test_a_transposed_convolution_is_the_backward_of_a_convolution(case, layout):
    x, weight = operands(case, layout)
    grad_y = laid_out(values(case.y, 3), layout, "float64")
    grad_x, _, _ = conv_backward(case, grad_y, x, weight, need=(True, False, False), data_format=layout)
    # What the last window does not reach is output padding, which must stay below stride or dilation.
    steps = zip(case.x[2:], case.y[2:], weight.shape[2:], case.stride, case.padding, case.dilation, strict=True)
    rest = tuple(i + sum(p) - (o - 1) * s - d * (k - 1) - 1 for i, o, k, s, p, d in steps)
    options = {name: value for name, value in case.options.items() if name != "padding_mode"}
    transposed = getattr(ff, f"conv_transpose{case.ndim}d")
    y = transposed(grad_y, weight, output_padding=rest, data_format=layout, **options)
    assert_within(y, grad_x, limit(case))


@given(case=convolutions(ndims=(2,), max_stride=1), shift=per_axis(2, -3, 3))
def test_a_shifted_picture_gives_a_shifted_result(case, shift):
    """Inside a frame of zeros wide enough that nothing is lost."""
    x, weight = operands(case)
    frame = ((3, 3), (3, 3))
    shifted = np.roll(ff.pad(x, frame), shift, (2, 3))
    expected = np.roll(conv(case, ff.pad(x, frame), weight, padding=9), shift, (2, 3))
    assert_within(conv(case, shifted, weight, padding=9), expected, limit(case))


@given(case=convolutions(ndims=(1, 2), max_stride=1), shift=st.integers(-5, 5))
def test_circular_padding_makes_shifts_exact(case, shift):
    x, weight = operands(case)
    spans = [d * (k - 1) for d, k in zip(case.dilation, weight.shape[2:], strict=True)]
    assume(all(span < 2 * i for span, i in zip(spans, x.shape[2:], strict=True)))
    circular = {"padding": "same", "padding_mode": "circular"}
    shifted = conv(case, np.roll(x, shift, -1), weight, **circular)
    assert_within(shifted, np.roll(conv(case, x, weight, **circular), shift, -1), limit(case))


@given(case=convolutions(modes=ALL_MODES))
def test_flipping_kernel_and_picture_flips_the_result(case):
    """With padding that is turned about, and windows that reach the end."""
    x, weight = operands(case)
    axes = tuple(range(2, x.ndim))
    mirrored = tuple((after, before) for before, after in case.padding)
    y = conv(case, x, weight, stride=1)
    turned = conv(case, np.flip(x, axes), weight, stride=1, padding=mirrored, flip_kernel=True)
    assert_within(np.flip(turned, axes), y, limit(case))


@given(case=convolutions(ndims=(1, 2)), activation=st.sampled_from(["relu", "relu6", "leaky_relu", "elu", "tanh"]))
def test_an_activation_comes_last(case, activation):
    x, weight = operands(case)
    bias = values((case.channels,), 2)
    y = conv(case, x, weight, bias)
    np.testing.assert_array_equal(conv(case, x, weight, bias, activation=activation), getattr(ff, activation)(y))


@pytest.mark.parametrize("layout", LAYOUTS)
@given(n=st.integers(1, 6), c_in=st.integers(1, 20), c_out=st.integers(1, 20))
def test_images_of_a_batch_do_not_touch_each_other(layout, n, c_in, c_out):
    x, weight = values((n, c_in, 5, 6), 0), values((c_out, c_in, 3, 3), 1)
    together = ff.conv2d(laid_out(x, layout, "float64"), weight, padding=1, data_format=layout)
    alone = [
        ff.conv2d(laid_out(x[i : i + 1], layout, "float64"), weight, padding=1, data_format=layout) for i in range(n)
    ]
    assert_within(together, np.concatenate(alone), bound("float64", 9 * c_in, x, weight))
