"""Every wrong geometry raises an error that names the argument, its value and what was expected."""

import numpy as np
import pytest

from fastconv.geometry import (
    adaptive_pool_geometry,
    check_divisor_override,
    conv_geometry,
    conv_output_size,
    conv_transpose_geometry,
    conv_transpose_output_size,
    deform_conv_geometry,
    fold_geometry,
    is_batched,
    parameter_count,
    pool_geometry,
    pool_output_size,
    receptive_field,
    unfold_geometry,
    unpool_geometry,
)

pytestmark = pytest.mark.isa_independent

X2, W2 = (2, 4, 8, 9), (6, 4, 3, 3)
HUGE = 2**62


def conv(x=X2, weight=W2, ndim=2, **options):
    return conv_geometry(x, weight, **options, ndim=ndim)


def transposed(x=X2, weight=(4, 6, 3, 3), ndim=2, **options):
    return conv_transpose_geometry(x, weight, **options, ndim=ndim)


def pool(kernel_size=3, x=X2, ndim=2, **options):
    return pool_geometry(x, kernel_size, **options, ndim=ndim)


def unpool(kernel_size=3, x=X2, ndim=2, **options):
    return unpool_geometry(x, kernel_size, **options, ndim=ndim)


def adaptive(output_size, x=X2, ndim=2, **options):
    return adaptive_pool_geometry(x, output_size, **options, ndim=ndim)


def unfold(kernel_size=3, x=X2, ndim=2, **options):
    return unfold_geometry(x, kernel_size, **options, ndim=ndim)


def fold(x, output_size=(4, 5), kernel_size=(2, 3), ndim=2, **options):
    return fold_geometry(x, output_size, kernel_size, **options, ndim=ndim)


def deform(x=X2, offset=(2, 18, 6, 7), weight=W2, **options):
    return deform_conv_geometry(x, offset, weight, **options)


INTS = "must be an integer or a tuple of 2 integers"
PADDING = 'padding must be an integer, a tuple of 2 integers, 2 pairs ((before, after), ...), "same" or "valid"'
FORMATS = "data_format must be 'channels_first' or 'channels_last'"
CHANNELS = "weight.shape[1] must be C_in / groups"

# (call, what was expected, what was given): the message is "expected, got given", word for word
TYPE_ERRORS = [
    (lambda: conv(stride=1.0), f"stride {INTS}", "stride=1.0"),
    (lambda: conv(stride=True), f"stride {INTS}", "stride=True"),
    (lambda: conv(stride="2"), f"stride {INTS}", "stride='2'"),
    (lambda: conv(stride=None), f"stride {INTS}", "stride=None"),
    (lambda: conv(stride=np.array([1, 1])), f"stride {INTS}", "stride=array([1, 1])"),
    (lambda: conv(dilation=(1, False)), f"dilation {INTS}", "dilation=(1, False)"),
    (lambda: conv(dilation=(1, 2.0)), f"dilation {INTS}", "dilation=(1, 2.0)"),
    (lambda: conv(padding=0.5), PADDING, "padding=0.5"),
    (lambda: conv(padding=None), PADDING, "padding=None"),
    (lambda: conv(padding=((1, 1), (0, 0.5))), PADDING, "padding=((1, 1), (0, 0.5))"),
    (lambda: conv(padding=(1, (0, 1))), PADDING, "padding=(1, (0, 1))"),
    (lambda: conv(groups=2.0), "groups must be an integer", "groups=2.0"),
    (lambda: conv(groups=True), "groups must be an integer", "groups=True"),
    (lambda: conv(data_format=None), FORMATS, "data_format=None"),
    (lambda: conv(x=7), "x.shape must be a tuple of integers (N, C, H, W)", "x.shape=7"),
    (lambda: transposed(output_padding=0.0), f"output_padding {INTS}", "output_padding=0.0"),
    (lambda: pool(2.0), f"kernel_size {INTS}", "kernel_size=2.0"),
    (lambda: pool(ceil_mode=1), "ceil_mode must be True or False", "ceil_mode=1"),
    (lambda: adaptive((None, 1.5)), f"output_size {INTS}", "output_size=(8, 1.5)"),
    (lambda: check_divisor_override(2.0), "divisor_override must be an integer", "divisor_override=2.0"),
    (lambda: parameter_count(3, 4, 5), "kernel_size must be a tuple, one integer a spatial axis", "kernel_size=5"),
    (lambda: parameter_count(3, 4, bias=None), "bias must be True or False", "bias=None"),
    (lambda: conv_output_size(5.0, 3), "size must be an integer or a tuple of 1 integer", "size=5.0"),
    (lambda: pool_output_size(5, 3, ceil_mode=0), "ceil_mode must be True or False", "ceil_mode=0"),
    (
        lambda: receptive_field([object()]),
        "layers must have a window, (kernel, stride, dilation) or a kernel_size attribute",
        "object",
    ),
]
VALUE_ERRORS = [
    # one argument alone
    (lambda: conv(stride=(1, 0)), "stride must be >= 1 along every axis", "stride=(1, 0)"),
    (lambda: conv(stride=-2), "stride must be >= 1 along every axis", "stride=-2"),
    (lambda: conv(stride=(1, 1, 1)), f"stride {INTS}", "stride=(1, 1, 1)"),
    (lambda: conv(stride=()), f"stride {INTS}", "stride=()"),
    (lambda: conv(dilation=0), "dilation must be >= 1 along every axis", "dilation=0"),
    (lambda: conv(padding=(0, -1)), "padding must be >= 0 along every axis", "padding=(0, -1)"),
    (lambda: conv(padding=((0, -1),)), "padding must be >= 0 along every axis", "padding=((0, -1),)"),
    (lambda: conv(padding=(1, 1, 1)), PADDING, "padding=(1, 1, 1)"),
    (lambda: conv(padding=((1, 1),) * 3), PADDING, "padding=((1, 1), (1, 1), (1, 1))"),
    (lambda: conv(padding=((1, 1, 1), (1, 1))), PADDING, "padding=((1, 1, 1), (1, 1))"),
    (lambda: conv(padding="full"), 'padding must be "same" or "valid" when it is a string', "padding='full'"),
    (
        lambda: conv(padding="same", stride=(1, 2)),
        'stride must be 1 along every axis with padding="same"',
        "stride=(1, 2)",
    ),
    (lambda: conv(groups=0), "groups must be >= 1", "groups=0"),
    (lambda: conv(data_format="NHWC"), FORMATS, "data_format='NHWC'"),
    (
        lambda: conv(padding_mode="constant"),
        "padding_mode must be 'zeros', 'reflect', 'replicate' or 'circular'",
        "padding_mode='constant'",
    ),
    (lambda: check_divisor_override(0), "divisor_override must not be 0", "divisor_override=0"),
    (lambda: is_batched(2, 2), "x must have 4 dimensions, or 3 without a batch", "x.ndim=2"),
    # shapes
    (lambda: conv(x=(4, 8, 9)), "x.shape must have 4 dimensions (N, C, H, W)", "x.shape=(4, 8, 9)"),
    (
        lambda: conv(x=(2, 0, 8, 9)),
        "x.shape must have no zero size but the batch's in (N, C, H, W)",
        "x.shape=(2, 0, 8, 9)",
    ),
    (
        lambda: pool(x=(2, 0, 9, 4), data_format="channels_last"),
        "x.shape must have no zero size but the batch's in (N, H, W, C)",
        "x.shape=(2, 0, 9, 4)",
    ),
    (
        lambda: conv(weight=(6, 4, 3)),
        "weight.shape must have 4 dimensions (C_out, C_in / groups, KH, KW)",
        "weight.shape=(6, 4, 3)",
    ),
    (
        lambda: transposed(weight=(4, 6, 3)),
        "weight.shape must have 4 dimensions (C_in, C_out / groups, KH, KW)",
        "weight.shape=(4, 6, 3)",
    ),
    (lambda: conv(weight=(0, 4, 3, 3)), "weight.shape must have no zero size", "weight.shape=(0, 4, 3, 3)"),
    (lambda: conv(weight=(6, 4, 0, 3)), "weight.shape must have no zero size", "weight.shape=(6, 4, 0, 3)"),
    (
        lambda: conv(weight=(6, 3, 3, 3)),
        f"{CHANNELS} = 4 for x with 4 channels and groups=1",
        "weight.shape=(6, 3, 3, 3)",
    ),
    (lambda: conv(groups=2), f"{CHANNELS} = 2 for x with 4 channels and groups=2", "weight.shape=(6, 4, 3, 3)"),
    (
        lambda: transposed(weight=(3, 6, 3, 3)),
        "weight.shape[0] must be C_in = 4, as x has",
        "weight.shape=(3, 6, 3, 3)",
    ),
    (lambda: conv(groups=3), "groups must divide the 4 input and 6 output channels", "groups=3"),
    (lambda: conv(groups=4), "groups must divide the 4 input and 6 output channels", "groups=4"),
    (lambda: transposed(groups=3), "groups must divide the 4 input and 18 output channels", "groups=3"),
    (lambda: conv(bias_shape=(4,)), "bias.shape must be (6,), one value an output channel", "bias.shape=(4,)"),
    (lambda: conv(bias_shape=(6, 1)), "bias.shape must be (6,), one value an output channel", "bias.shape=(6, 1)"),
    (
        lambda: transposed(bias_shape=(4,), groups=2),
        "bias.shape must be (12,), one value an output channel",
        "bias.shape=(4,)",
    ),
    # windows
    (
        lambda: conv(weight=(6, 4, 3, 5), padding=((0, 0), (1, 0)), dilation=(1, 3)),
        "weight.shape[2:] must fit into the padded input size (8, 10)",
        "weight.shape[2:]=(3, 5) with dilation=(1, 3), which spans (3, 13)",
    ),
    (
        lambda: pool((9, 1)),
        "kernel_size must fit into the padded input size (8, 9)",
        "kernel_size=(9, 1) with dilation=(1, 1), which spans (9, 1)",
    ),
    (
        lambda: pool(11, stride=1, ceil_mode=True),
        "kernel_size must leave at least one window of stride (1, 1) in the padded input size (8, 9)",
        "kernel_size=(11, 11) with dilation=(1, 1), which spans (11, 11)",
    ),
    (
        lambda: unfold(2, dilation=8),
        "kernel_size must fit into the padded input size (8, 9)",
        "kernel_size=(2, 2) with dilation=(8, 8), which spans (9, 9)",
    ),
    (
        lambda: conv_output_size(2, 3),
        "kernel must fit into the padded input size (2,)",
        "kernel=(3,) with dilation=(1,), which spans (3,)",
    ),
    (
        lambda: pool(3, dilation=2, padding=2),
        "padding must be at most half of kernel_size=(3, 3) on each side",
        "padding=((2, 2), (2, 2))",
    ),
    (
        lambda: pool_output_size(9, 3, padding=2),
        "padding must be at most half of kernel=(3,) on each side",
        "padding=((2, 2),)",
    ),
    (
        lambda: pool(2, x=(1, 1, 2), ndim=1, padding=1, dilation=3),
        "dilation must leave each window a tap inside the input size (2,)",
        "dilation=(3,) with kernel_size=(2,) and padding=((1, 1),)",
    ),
    (
        lambda: conv(padding=(8, 1), padding_mode="reflect"),
        "padding must be smaller than the input size (8, 9) with padding_mode='reflect'",
        "padding=((8, 8), (1, 1))",
    ),
    (
        lambda: conv(padding=((1, 1), (0, 10)), padding_mode="circular"),
        "padding must be at most the input size (8, 9) with padding_mode='circular'",
        "padding=((1, 1), (0, 10))",
    ),
    (
        lambda: transposed(stride=(2, 1), dilation=(1, 2), output_padding=(1, 2)),
        "output_padding must be smaller than the larger of stride=(2, 1) and dilation=(1, 2) along every axis",
        "output_padding=(1, 2)",
    ),
    (
        lambda: transposed(padding=(0, 6)),
        "padding must leave an output size >= 1 along every axis",
        "padding=((0, 0), (6, 6)), the size (10, -1)",
    ),
    (
        lambda: conv_transpose_output_size(1, 2, padding=1),
        "padding must leave an output size >= 1 along every axis",
        "padding=((1, 1),), the size (0,)",
    ),
    (lambda: adaptive((0, 1)), "output_size must be >= 1 along every axis", "output_size=(0, 1)"),
    (lambda: adaptive((1, 1, 1)), f"output_size {INTS}", "output_size=(1, 1, 1)"),
    (
        lambda: unpool(2, output_size=(18, 18)),
        "output_size must be less than one stride (2, 2) away from (16, 18)",
        "output_size=(18, 18)",
    ),
    (
        lambda: fold((1, 13, 12)),
        "x.shape must be (N, C * taps, windows) with a positive multiple of the 6 taps of kernel_size=(2, 3)",
        "x.shape=(1, 13, 12)",
    ),
    (
        lambda: fold((1, 12, 12), data_format="channels_last"),
        "x.shape must be (N, windows, C * taps) with 9 windows, (3, 3) of them in output_size=(4, 5)",
        "x.shape=(1, 12, 12)",
    ),
    (
        lambda: deform(weight=(6, 3, 3, 3)),
        "weight.shape[1] must divide the 4 channels of x",
        "weight.shape=(6, 3, 3, 3)",
    ),
    (
        lambda: deform(offset=(2, 20, 6, 7)),
        "offset.shape[1] must be 18 times a divisor of the 4 channels of x",
        "offset.shape=(2, 20, 6, 7)",
    ),
    (
        lambda: deform(offset=(2, 54, 6, 7)),
        "offset.shape[1] must be 18 times a divisor of the 4 channels of x",
        "offset.shape=(2, 54, 6, 7)",
    ),
    (lambda: deform(offset=(2, 36, 6, 6)), "offset.shape must be (2, 36, 6, 7)", "offset.shape=(2, 36, 6, 6)"),
    (
        lambda: deform(mask_shape=(2, 18, 6, 7)),
        "mask.shape must be (2, 9, 6, 7), one value a tap",
        "mask.shape=(2, 18, 6, 7)",
    ),
    (lambda: parameter_count(3, 4, groups=2), "groups must divide in_channels=3 and out_channels=4", "groups=2"),
    (lambda: parameter_count(0, 4), "in_channels must be >= 1", "in_channels=0"),
    (lambda: receptive_field([(3, 1)]), "layers must hold (kernel, stride, dilation[, padding])", "(3, 1)"),
    # sizes beyond 64 bits
    (lambda: conv(dilation=HUGE), "dilation must keep every size below 2**63", f"dilation=({HUGE}, {HUGE})"),
    (lambda: pool(3, dilation=HUGE), "dilation must keep every size below 2**63", f"dilation=({HUGE}, {HUGE})"),
    (lambda: unfold(3, dilation=HUGE), "dilation must keep every size below 2**63", f"dilation=({HUGE}, {HUGE})"),
    (lambda: conv(stride=2**63), "stride must keep every size below 2**63", f"stride={2**63}"),
    (lambda: conv(groups=2**64), "groups must keep every size below 2**63", f"groups={2**64}"),
    (
        lambda: conv(padding=HUGE),
        "padding must keep every size below 2**63",
        f"padding=(({HUGE}, {HUGE}), ({HUGE}, {HUGE}))",
    ),
    (lambda: transposed(stride=2**61), "stride must keep every size below 2**63", f"stride=({2**61}, {2**61})"),
    (
        lambda: transposed((1, 4, 1, 1), stride=(2**63 - 1, 1), output_padding=(2**63 - 3, 0)),
        "output_padding must keep every size below 2**63",
        f"output_padding=({2**63 - 3}, 0)",
    ),
    (
        lambda: conv(padding=2**40),
        "x.shape and padding must give arrays below 2**63 bytes",
        f"x.shape={X2}, padding=(({2**40}, {2**40}), ({2**40}, {2**40}))"
        f" for the shape (2, 6, {2**41 + 6}, {2**41 + 7})",
    ),
    (
        lambda: pool(x=(1, 1, 2**31, 2**31)),
        "x.shape must give arrays below 2**63 bytes",
        f"x.shape=(1, 1, {2**31}, {2**31}) for the shape (1, 1, {2**31}, {2**31})",
    ),
    (
        lambda: adaptive(2**40),
        "x.shape and output_size must give arrays below 2**63 bytes",
        f"x.shape={X2}, output_size=({2**40}, {2**40}) for the shape (2, 4, {2**40}, {2**40})",
    ),
]


@pytest.mark.parametrize(("call", "expected", "given"), TYPE_ERRORS)
def test_type_errors(call, expected, given):
    with pytest.raises(TypeError) as error:
        call()
    assert str(error.value) == f"{expected}, got {given}"


@pytest.mark.parametrize(("call", "expected", "given"), VALUE_ERRORS)
def test_value_errors(call, expected, given):
    with pytest.raises(ValueError, match="must") as error:
        call()
    assert str(error.value) == f"{expected}, got {given}"


def test_a_transposed_convolution_has_no_receptive_field():
    class ConvTranspose2d:
        kernel_size = (3, 3)

    with pytest.raises(ValueError, match=r"must not hold transposed convolutions.*got ConvTranspose2d"):
        receptive_field([ConvTranspose2d()])
