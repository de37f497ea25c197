"""What convolutions promise beside their values: inputs stay, every kind of array works, nothing is half written."""

import re
import tracemalloc

import numpy as np
import pytest
from cases import CONV, CONV_TRANSPOSE, LAYOUTS, Tile, laid_out, values
from views import views

import fastconv.functional as ff
from fastconv import runtime

# One of each path: in place, through scratch, across images, few channels, groups, strided phases, several threads.
CONV_NAMES = [
    "2d-unequal-everything",
    "2d-small-planes-cross-images",
    "1d-strided-dilated",
    "3d",
    "threaded-grouped",
    "reflect",
    "depthwise",
]
TRANSPOSE_NAMES = ["2d-unequal-everything", "threaded", "1d"]
OPERATORS = {f"conv: {name}": ("conv", CONV[name]) for name in CONV_NAMES} | {
    f"conv_transpose: {name}": ("conv_transpose", CONV_TRANSPOSE[name]) for name in TRANSPOSE_NAMES
}


class Call:
    """An operator of fastconv.functional bound to a case's parameters and layout."""

    def __init__(self, name, layout="channels_first", dtype="float32"):
        family, case = OPERATORS[name]
        self.case = case(Tile.current(dtype))
        self.function = getattr(ff, f"{family}{self.case.ndim}d")
        self.backward_function = getattr(ff, f"{family}{self.case.ndim}d_backward")
        self.options = {"data_format": layout, **self.case.options}
        self.x, self.grad_y = (laid_out(values(shape, 0), layout, dtype) for shape in (self.case.x, self.case.y))
        self.weight, self.bias = (values(s, 1).astype(dtype) for s in (self.case.weight, (self.case.channels,)))

    def __call__(self, *args, **options):
        return self.function(*(args or (self.x, self.weight, self.bias)), **(self.options | options))

    def backward(self, *args, need=(True, True, True), **options):
        args = args or (self.grad_y, self.x, self.weight)
        return [g for g in self.backward_function(*args, need=need, **(self.options | options)) if g is not None]


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.mark.parametrize("name", OPERATORS)
def test_every_kind_of_view_gives_the_same_bits_and_stays_untouched(name, layout, isa):
    call = Call(name, layout)
    inputs = {"x": call.x, "weight": call.weight, "bias": call.bias}
    expected = call()
    for argument, array in inputs.items():
        for kind, view in views(array):
            y = call(*(inputs | {argument: view}).values())
            np.testing.assert_array_equal(y, expected, f"{argument}: {kind}")
            np.testing.assert_array_equal(view, array, f"{argument}: {kind}")


@pytest.mark.parametrize("name", OPERATORS)
def test_backward_takes_every_kind_of_view_and_leaves_it_untouched(name, layout):
    call = Call(name, layout)
    inputs = {"grad_y": call.grad_y, "x": call.x, "weight": call.weight}
    expected = call.backward()
    for argument, array in inputs.items():
        for kind, view in views(array):
            gradients = call.backward(*(inputs | {argument: view}).values())
            for actual, gradient in zip(gradients, expected, strict=True):
                np.testing.assert_array_equal(actual, gradient, f"{argument}: {kind}")
            np.testing.assert_array_equal(view, array, f"{argument}: {kind}")


@pytest.mark.parametrize("name", OPERATORS)
def test_results_are_fresh_contiguous_arrays(name, layout):
    call = Call(name, layout)
    results = [call(), *call.backward(), *call.backward()]
    for i, result in enumerate(results):
        assert type(result) is np.ndarray
        assert result.flags.c_contiguous
        assert result.flags.owndata or result.base is not None
        assert result.flags.writeable
        others = [call.x, call.weight, call.bias, call.grad_y, *results[:i]]
        assert not any(np.may_share_memory(result, other) for other in others)


def test_one_array_may_be_every_input():
    a = values((4, 4, 3, 3), 0)
    np.testing.assert_array_equal(ff.conv2d(a, a), ff.conv2d(a.copy(), a.copy()))


def test_broadcast_and_overlapping_views_are_read_as_they_look(layout):
    """Windows of a signal that share memory; one value seen as many."""
    signal = np.arange(40, dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(signal, 8)[None]  # 1 x 33 x 8
    weight = np.broadcast_to(np.float32(0.5), (5, 33 if layout == "channels_first" else 8, 3))
    y = ff.conv1d(windows, weight, data_format=layout)
    np.testing.assert_array_equal(y, ff.conv1d(windows.copy(), weight.copy(), data_format=layout))


# --- out -------------------------------------------------------------------------------------------------------------


def wrong_outs(y, x):
    """(what is wrong, out, error, words of its message)."""
    other = np.float64 if y.dtype == np.float32 else np.float32
    yield "dtype", np.full(y.shape, 7, other), TypeError, "out must have dtype"
    yield "shape", np.full((*y.shape[:-1], y.shape[-1] + 1), 7, y.dtype), ValueError, "out must have shape"
    yield "rank", np.full(y.shape[1:], 7, y.dtype), ValueError, "out must have shape"
    yield "order", np.full(y.shape, 7, y.dtype, order="F"), ValueError, "out must be C-contiguous"
    gaps = np.full((*y.shape[:-1], 2 * y.shape[-1]), 7, y.dtype)[..., ::2]
    yield "gaps", gaps, ValueError, "out must be C-contiguous"
    read_only = np.full(y.shape, 7, y.dtype)
    read_only.flags.writeable = False
    yield "read-only", read_only, ValueError, "out must be writeable"
    swapped = np.full(y.shape, 7, y.dtype.newbyteorder("S"))
    yield "byte order", swapped, TypeError, "out must have dtype"
    unaligned = np.empty(y.nbytes + 1, np.uint8)[1:].view(y.dtype).reshape(y.shape)
    unaligned[...] = 7
    yield "unaligned", unaligned, ValueError, "out must be aligned"
    yield "list", [7.0], TypeError, "out must be a NumPy array"


@pytest.mark.parametrize("name", ["conv: 2d-unequal-everything", "conv: threaded-grouped", "conv_transpose: threaded"])
def test_a_wrong_out_is_refused_and_not_written(name, layout):
    call = Call(name, layout)
    for kind, out, error, message in wrong_outs(call(), call.x):
        with pytest.raises(error, match=message):
            call(out=out)
        assert np.all(np.asarray(out) == 7), kind


@pytest.mark.parametrize("name", ["conv: 2d-unequal-everything", "conv: reflect", "conv_transpose: threaded"])
@pytest.mark.parametrize("argument", [0, 1, 2])
def test_out_may_not_overlap_an_input(name, argument, layout):
    call = Call(name, layout)
    inputs = [call.x, call.weight, call.bias]
    shape, size = call().shape, call().size
    memory = np.zeros(size + inputs[argument].size, np.float32)
    inputs[argument] = memory[size - 1 : -1].reshape(inputs[argument].shape)  # by its first element
    inputs[argument][...] = 3
    before = memory.copy()
    with pytest.raises(ValueError, match="out must not share memory with an input"):
        call(*inputs, out=memory[:size].reshape(shape))
    np.testing.assert_array_equal(memory, before)


# --- errors ----------------------------------------------------------------------------------------------------------

BAD_OPTIONS = [
    ({"stride": 0}, ValueError, "stride must be >= 1"),
    ({"stride": True}, TypeError, "stride must be an integer or a tuple of 2 integers, got stride=True"),
    ({"stride": 1.0}, TypeError, "stride must be an integer or a tuple of 2 integers, got stride=1.0"),
    ({"stride": (1, 1.0)}, TypeError, "stride must be an integer or a tuple of 2 integers, got stride=(1, 1.0)"),
    ({"stride": None}, TypeError, "stride must be an integer or a tuple of 2 integers, got stride=None"),
    ({"stride": (1, 1, 1)}, ValueError, "stride must be an integer or a tuple of 2 integers, got stride=(1, 1, 1)"),
    ({"padding": -1}, ValueError, "padding must be >= 0"),
    ({"padding": True}, TypeError, "padding must be an integer, a tuple of 2 integers, 2 pairs"),
    ({"padding": 0.5}, TypeError, "padding must be an integer, a tuple of 2 integers, 2 pairs"),
    ({"padding": "full"}, ValueError, 'padding must be "same" or "valid"'),
    ({"padding": ((1, 1, 1), (1, 1))}, ValueError, "padding must be an integer, a tuple of 2 integers, 2 pairs"),
    ({"dilation": 0}, ValueError, "dilation must be >= 1"),
    ({"dilation": 2**62}, ValueError, "dilation"),
    ({"groups": 0}, ValueError, "groups must be >= 1"),
    ({"groups": 3}, ValueError, "groups must divide"),
    ({"groups": True}, TypeError, "groups must be an integer, got groups=True"),
    ({"groups": 1.0}, TypeError, "groups must be an integer, got groups=1.0"),
    ({"data_format": "NHWC"}, ValueError, "data_format must be 'channels_first' or 'channels_last'"),
    ({"data_format": ["channels_first"]}, TypeError, "data_format must be 'channels_first' or 'channels_last'"),
    ({"data_format": None}, TypeError, "data_format must be 'channels_first' or 'channels_last'"),
    ({"algorithm": "fastest"}, ValueError, "algorithm must be one of"),
    ({"algorithm": ["direct"]}, (TypeError, ValueError), "algorithm must be one of"),
]
FORWARD_ONLY = [
    ({"activation": "softplus"}, ValueError, "activation must be 'relu', 'relu6'"),
    ({"activation": ["relu"]}, TypeError, "activation must be 'relu', 'relu6'"),
    ({"activation": 1}, TypeError, "activation must be 'relu', 'relu6'"),
]
CONV_ONLY = [
    ({"padding_mode": "constant"}, ValueError, "padding_mode must be 'zeros', 'reflect', 'replicate' or 'circular'"),
    ({"padding_mode": {}}, TypeError, "padding_mode must be 'zeros', 'reflect', 'replicate' or 'circular'"),
    ({"padding_mode": "reflect", "padding": 6}, ValueError, "padding must be smaller than the input size"),
    ({"padding": "same", "stride": 2}, ValueError, 'stride must be 1 along every axis with padding="same"'),
    ({"flip_kernel": "no"}, TypeError, "flip_kernel must be True or False, got flip_kernel='no'"),
    ({"flip_kernel": 1}, TypeError, "flip_kernel must be True or False, got flip_kernel=1"),
]
TRANSPOSE_ONLY = [
    ({"output_padding": 1}, ValueError, "output_padding must be smaller than"),
    ({"output_padding": 1.0}, TypeError, "output_padding must be an integer"),
    ({"padding": 4}, ValueError, "padding must leave an output size >= 1"),
]
BACKWARD_ONLY = [
    ({"need": (True, True)}, ValueError, "need must be three bools"),
    ({"need": (True,) * 4}, ValueError, "need must be three bools"),
    ({"need": (1, 0, 0)}, TypeError, "need must be three bools"),
    ({"need": True}, TypeError, "need must be three bools"),
    ({"need": None}, TypeError, "need must be three bools"),
    ({"need": "yes"}, TypeError, "need must be three bools"),
]
X, WEIGHT, BIAS = (np.ones(shape, np.float32) for shape in ((2, 4, 6, 6), (4, 4, 3, 3), (4,)))


def assert_refused(function, *args, error, message, **options):
    with pytest.raises(error, match=re.escape(message)):
        function(*args, **options)


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS + FORWARD_ONLY + CONV_ONLY, ids=str)
def test_conv_refuses(options, error, message):
    ff.conv2d(X, WEIGHT, BIAS)  # its plan must not answer for what merely compares equal
    assert_refused(ff.conv2d, X, WEIGHT, BIAS, error=error, message=message, **options)


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS + FORWARD_ONLY + TRANSPOSE_ONLY, ids=str)
def test_conv_transpose_refuses(options, error, message):
    ff.conv_transpose2d(X, WEIGHT, BIAS)
    if options == {"groups": 3}:
        message = "groups must divide"
    assert_refused(ff.conv_transpose2d, X, WEIGHT, BIAS, error=error, message=message, **options)


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS + CONV_ONLY + BACKWARD_ONLY, ids=str)
def test_conv_backward_refuses(options, error, message):
    grad_y = np.ones((2, 4, 4, 4), np.float32)
    assert_refused(ff.conv2d_backward, grad_y, X, WEIGHT, error=error, message=message, **options)


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS + TRANSPOSE_ONLY + BACKWARD_ONLY, ids=str)
def test_conv_transpose_backward_refuses(options, error, message):
    grad_y = np.ones((2, 4, 8, 8), np.float32)
    assert_refused(ff.conv_transpose2d_backward, grad_y, X, WEIGHT, error=error, message=message, **options)


def bad_arrays(name, array):
    """(array in the place of a good one, error, message)."""
    yield array.tolist(), TypeError, f"{name} must be a NumPy array, got list"
    yield array.astype(np.int64), TypeError, f"{name} must be float32 or float64, got dtype int64; cast it with"
    yield array.astype(np.float16), TypeError, f"{name} must be float32 or float64, got dtype float16"
    yield array.astype(np.complex64), TypeError, f"{name} must be float32 or float64, got dtype complex64"
    yield array.astype(array.dtype.newbyteorder("S")), TypeError, f"{name} must be float32 or float64, got dtype >f4"
    yield array.astype(np.float64), TypeError, "cast it with"
    yield array[None, None], ValueError, f"{name} must have"


@pytest.mark.parametrize("position", [0, 1, 2], ids=["x", "weight", "bias"])
@pytest.mark.parametrize("function", [ff.conv2d, ff.conv_transpose2d])
def test_arrays_that_forward_refuses(function, position):
    arguments = [X, WEIGHT, BIAS]
    name = ("x", "weight", "bias")[position]
    for bad, error, message in bad_arrays(name, arguments[position]):
        arguments[position] = bad
        assert_refused(function, *arguments, error=error, message=message)


@pytest.mark.parametrize("position", [0, 1, 2], ids=["grad_y", "x", "weight"])
@pytest.mark.parametrize(("function", "size"), [(ff.conv2d_backward, 4), (ff.conv_transpose2d_backward, 8)])
def test_arrays_that_backward_refuses(function, size, position):
    grad_y = np.ones((2, 4, size, size), np.float32)
    arguments = [grad_y, X, WEIGHT]
    name = ("grad_y", "x", "weight")[position]
    for bad, error, message in bad_arrays(name, arguments[position]):
        arguments[position] = bad
        assert_refused(function, *arguments, error=error, message=message)
    for bad in (grad_y[:1], grad_y[:, :3], grad_y[..., 1:], grad_y[0]):
        assert_refused(function, bad, X, WEIGHT, error=ValueError, message="grad_y must have")


@pytest.mark.parametrize(
    ("function", "arguments", "options", "message"),
    [
        (ff.conv2d, (X, WEIGHT[:, :3]), {}, "weight.shape[1] must be C_in / groups = 4"),
        (ff.conv2d, (X, WEIGHT, BIAS[:3]), {}, "bias.shape must be (4,)"),
        (ff.conv2d, (X[:, :, :2], WEIGHT), {}, "weight.shape[2:] must fit into the padded input size (2, 6)"),
        (ff.conv2d, (X[:, :0], WEIGHT[:, :0]), {}, "x.shape must have no zero size"),
        (ff.conv2d, (X[:, :, :0], WEIGHT), {"padding": 3}, "x.shape must have no zero size"),
        (ff.conv2d, (X, WEIGHT[:0]), {}, "weight.shape must have no zero size"),
        (ff.conv2d, (X, WEIGHT[:, :, :0]), {}, "weight.shape must have no zero size"),
        (ff.conv1d, (X[:, :, 0], WEIGHT[:, :, 0]), {"padding": 2**61}, "must give arrays below 2**63 bytes"),
        (ff.conv_transpose2d, (X, WEIGHT[:3]), {}, "weight.shape[0] must be C_in = 4"),
        (ff.conv_transpose2d, (X, WEIGHT, BIAS[:3]), {}, "bias.shape must be (4,)"),
        (ff.conv_transpose2d, (X, WEIGHT), {"stride": 2**60}, "must give arrays below 2**63 bytes"),
    ],
)
def test_shapes_that_are_refused(function, arguments, options, message):
    assert_refused(function, *arguments, error=ValueError, message=message, **options)


@pytest.mark.parametrize("bad", [{"dilation": 2**62}, {"groups": 3}, {"padding": 2**61}, {"out": np.ones(3)}])
def test_errors_come_before_anything_is_allocated(bad):
    x = np.broadcast_to(np.float64(1), (1, 4, 1 << 20))  # 32 MB once copied
    weight = np.ones((4, 4, 3))
    before = runtime.trim()
    tracemalloc.start()
    try:
        with pytest.raises((TypeError, ValueError)):
            ff.conv1d(x, weight, **bad)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert before >= 0
    assert runtime.trim() == 0


def test_more_than_the_memory_holds_is_a_memory_error():
    x = np.broadcast_to(np.float32(1), (1, 1, 1 << 45))
    weight = np.ones((1, 1, 3), np.float32)
    with pytest.raises(MemoryError):
        ff.conv1d(x, weight)
    with pytest.raises(MemoryError):
        ff.conv1d(x[..., :4], weight, padding=1 << 42)


# --- numbers out of proportion ---------------------------------------------------------------------------------------


def test_huge_strides_and_dilations_that_do_not_matter():
    x, weight = values((1, 2, 7), 0), values((3, 2, 7), 1)
    y = ff.conv1d(x, weight)
    assert y.shape == (1, 3, 1)
    np.testing.assert_array_equal(ff.conv1d(x, weight, stride=2**62), y)
    np.testing.assert_array_equal(ff.conv1d(x, weight[..., :1], dilation=2**62), ff.conv1d(x, weight[..., :1]))
    np.testing.assert_array_equal(
        ff.conv1d(x[..., :2], weight[..., :1], stride=2**62)[..., 0], ff.conv1d(x, weight[..., :1])[..., 0]
    )
    one = ff.conv_transpose1d(y, np.ones((3, 1, 1)), stride=2**62)
    np.testing.assert_allclose(one, y.sum(1, keepdims=True))
    grad_x, _, _ = ff.conv1d_backward(y, x, weight, stride=2**62, need=(True, False, False))
    np.testing.assert_allclose(grad_x, np.einsum("nfo,fck->nck", y, weight))


def test_padding_far_beyond_the_input():
    x, weight = values((1, 3, 4), 0), values((2, 3, 3), 1)
    y = ff.conv1d(x, weight, np.array([1.0, 2.0]), padding=5000)
    assert y.shape == (1, 2, 10002)
    np.testing.assert_array_equal(y[0, 1, :4000], 2)
    np.testing.assert_array_equal(y[..., 4998:5004], ff.conv1d(x, weight, np.array([1.0, 2.0]), padding=2))
