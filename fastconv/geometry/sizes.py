"""Output sizes of windowed operators, receptive fields and parameter counts.

Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016), sections 2 and 4;
Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks" (Distill, 2019).
"""

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from fastconv.geometry.arguments import (
    IntOrTuple,
    Padding,
    Pairs,
    Size,
    as_bool,
    as_int,
    as_padding,
    as_tuple,
    check_int64,
    is_int,
)


def window_reach(kernel: Size, dilation: Size) -> Size:
    """Input positions from a window's first tap to its last, an axis: dilation (kernel - 1) + 1, checked."""
    return tuple(check_int64(d * (k - 1) + 1, "dilation", dilation) for k, d in zip(kernel, dilation, strict=True))


def padded_size(in_size: Size, padding: Pairs) -> Size:
    """Input size with its padding, an axis, checked."""
    sizes = zip(in_size, padding, strict=True)
    return tuple(check_int64(size + before + after, "padding", padding) for size, (before, after) in sizes)


def window_counts(
    in_size: Size, kernel: Size, stride: Size, padding: Pairs, dilation: Size, name: str = "kernel_size"
) -> Size:
    """How many whole windows fit along each axis: floor((in + before + after - reach) / stride) + 1.

    `name` is what the caller's user calls the kernel.

    Raises: ValueError when a window is larger than the padded input or a size leaves 64 bits.
    """
    reach, padded = window_reach(kernel, dilation), padded_size(in_size, padding)
    if any(r > p for r, p in zip(reach, padded, strict=True)):
        raise ValueError(
            f"{name} must fit into the padded input size {padded}, "
            f"got {name}={kernel} with dilation={dilation}, which spans {reach}"
        )
    return tuple((p - r) // s + 1 for p, r, s in zip(padded, reach, stride, strict=True))


def ceil_window_counts(
    in_size: Size, kernel: Size, stride: Size, padding: Pairs, dilation: Size, name: str = "kernel_size"
) -> Size:
    """How many windows, the last one perhaps partial: ceil((in + before + after - reach) / stride) + 1.

    A last window that would start at or beyond in + before, that is wholly in the padding after the input, is dropped.
    A window larger than the padded input is legal as long as one window remains.

    Raises: ValueError when no window remains or a size leaves 64 bits.
    """
    reach, padded = window_reach(kernel, dilation), padded_size(in_size, padding)
    counts = []
    for size, (before, _), r, p, s in zip(in_size, padding, reach, padded, stride, strict=True):
        count = -((r - p) // s) + 1
        counts.append(count - 1 if (count - 1) * s >= size + before else count)
    if min(counts) < 1:
        raise ValueError(
            f"{name} must leave at least one window of stride {stride} in the padded input size {padded}, "
            f"got {name}={kernel} with dilation={dilation}, which spans {reach}"
        )
    return tuple(counts)


def transposed_sizes(
    in_size: Size, kernel: Size, stride: Size, padding: Pairs, output_padding: Size, dilation: Size
) -> Size:
    """Output sizes of a transposed convolution: stride (in - 1) + reach - before - after + output_padding.

    Raises: ValueError when an output size is below 1 or leaves 64 bits.
    """
    reach = window_reach(kernel, dilation)
    sizes = []
    for size, s, r, (before, after), extra in zip(in_size, stride, reach, padding, output_padding, strict=True):
        scattered = check_int64(s * (size - 1) + r, "stride", stride)
        sizes.append(check_int64(scattered + extra, "output_padding", output_padding) - before - after)
    if min(sizes) < 1:
        raise ValueError(
            f"padding must leave an output size >= 1 along every axis, got padding={padding}, the size {tuple(sizes)}"
        )
    return tuple(sizes)


def conv_output_size(
    size: IntOrTuple, kernel: IntOrTuple, stride: IntOrTuple = 1, padding: Padding = 0, dilation: IntOrTuple = 1
) -> int | Size:
    """Output size of a convolution, floor((size + before + after - dilation (kernel - 1) - 1) / stride) + 1.

    Parameters
    ----------
    size: int or tuple of int, input positions >= 1 along each spatial axis
    kernel: int or tuple of int, taps >= 1
    stride: int or tuple of int >= 1, default 1
    padding: int, tuple, pairs ((before, after), ...), "same" or "valid", default 0
    dilation: int or tuple of int >= 1 (1 = none), default 1

    Returns an int when `size` is one, otherwise a tuple of one int an axis.

    Raises: TypeError, ValueError naming the argument; a kernel larger than the padded input raises ValueError.

    Source: Dumoulin and Visin (2016), relationships 6 and 15.
    """
    in_size = _as_in_size(size)
    windows = _as_window(len(in_size), kernel, stride, dilation)
    counts = window_counts(in_size, windows[0], windows[1], as_padding(padding, *windows), windows[2], "kernel")
    return _like(size, counts)


def conv_transpose_output_size(
    size: IntOrTuple,
    kernel: IntOrTuple,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
) -> int | Size:
    """Output size of a transposed convolution.

    stride (size - 1) + dilation (kernel - 1) + 1 - before - after + output_padding

    Parameters
    ----------
    size: int or tuple of int, input positions >= 1 along each spatial axis
    kernel: int or tuple of int, taps >= 1
    stride: int or tuple of int >= 1, default 1
    padding: int, tuple, pairs ((before, after), ...), "same" or "valid", default 0: positions cut from the output
    output_padding: int or tuple of int, below max(stride, dilation), default 0: positions added at the end
    dilation: int or tuple of int >= 1 (1 = none), default 1

    Returns an int when `size` is one, otherwise a tuple of one int an axis.

    Raises: TypeError, ValueError naming the argument; an output below 1 raises ValueError.

    Source: Dumoulin and Visin (2016), relationship 14.
    """
    in_size = _as_in_size(size)
    windows = _as_window(len(in_size), kernel, stride, dilation)
    extra = as_output_padding(output_padding, windows[1], windows[2])
    sizes = transposed_sizes(in_size, windows[0], windows[1], as_padding(padding, *windows), extra, windows[2])
    return _like(size, sizes)


def pool_output_size(
    size: IntOrTuple,
    kernel: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
) -> int | Size:
    """Output size of a pool, floor((size + before + after - dilation (kernel - 1) - 1) / stride) + 1.

    With `ceil_mode` the division rounds up, and a last window that would start beyond size + before is dropped.

    Parameters
    ----------
    size: int or tuple of int, input positions >= 1 along each spatial axis
    kernel: int or tuple of int, taps >= 1
    stride: int or tuple of int >= 1, default None: the kernel
    padding: int, tuple, pairs ((before, after), ...), "same" or "valid", default 0; at most kernel // 2 a side
    dilation: int or tuple of int >= 1 (1 = none), default 1
    ceil_mode: bool, default False

    Returns an int when `size` is one, otherwise a tuple of one int an axis.

    Raises: TypeError, ValueError naming the argument; an output below 1 raises ValueError.

    Source: Dumoulin and Visin (2016), relationship 7.
    """
    in_size = _as_in_size(size)
    windows = _as_window(len(in_size), kernel, kernel if stride is None else stride, dilation)
    pairs = as_pool_padding(padding, *windows, "kernel")
    count = ceil_window_counts if as_bool(ceil_mode, "ceil_mode") else window_counts
    return _like(size, count(in_size, windows[0], windows[1], pairs, windows[2], "kernel"))


class ReceptiveField(NamedTuple):
    """What one output position of a stack of layers sees: ints, or one int an axis where a layer has tuples."""

    size: int | Size
    """Input positions it spans."""
    jump: int | Size
    """Input positions between the fields of two neighbouring outputs: the total stride."""
    start: int | Size
    """First input position in the field of output 0; negative inside the padding."""


def receptive_field(layers: Iterable[object]) -> ReceptiveField:
    """The receptive field of a chain of windowed layers.

    size = 1 + sum_l dilation_l (kernel_l - 1) jump_l, start = -sum_l before_l jump_l, jump_l = prod_{i < l} stride_i

    Parameters
    ----------
    layers: from input to output, each (kernel, stride, dilation), (kernel, stride, dilation, padding), or an object
        with attributes kernel_size and optionally stride (default the kernel), dilation and padding: a convolution or
        pool. Layers without a window, as activations, see what their input sees: leave them out.

    Returns ReceptiveField(size, jump, start).

    Raises: TypeError for a layer without a window, ValueError for a transposed convolution and for bad values.

    Source: Araujo, Norris and Sim (2019), equations 2 to 4.
    """
    windows = [_window_of(layer) for layer in layers]
    lengths = [len(v) for window in windows for v in window[:3] if isinstance(v, (tuple, list))]
    ndim = max(lengths, default=1)
    size, jump, start = [1] * ndim, [1] * ndim, [0] * ndim
    for *window, padding in windows:
        kernel, stride, dilation = _as_window(ndim, *window)
        pairs = as_padding(padding, kernel, stride, dilation)
        for axis in range(ndim):
            size[axis] += dilation[axis] * (kernel[axis] - 1) * jump[axis]
            start[axis] -= pairs[axis][0] * jump[axis]
            jump[axis] *= stride[axis]
    if lengths:
        return ReceptiveField(tuple(size), tuple(jump), tuple(start))
    return ReceptiveField(size[0], jump[0], start[0])


def parameter_count(
    in_channels: int, out_channels: int, kernel_size: Size = (), *, groups: int = 1, bias: bool = True
) -> int:
    """Trainable values of a convolution or, with no kernel axes, a linear layer.

    out_channels (in_channels / groups * prod(kernel_size) + bias)

    Parameters
    ----------
    in_channels, out_channels: int >= 1
    kernel_size: tuple of int >= 1, one a spatial axis, default () for a linear layer
    groups: int that divides both channel counts, default 1
    bias: bool, default True

    Raises: TypeError, ValueError naming the argument.
    """
    in_channels = as_int(in_channels, "in_channels", minimum=1)
    out_channels = as_int(out_channels, "out_channels", minimum=1)
    groups = as_int(groups, "groups", minimum=1)
    if not isinstance(kernel_size, (tuple, list)):
        raise TypeError(f"kernel_size must be a tuple, one integer a spatial axis, got kernel_size={kernel_size!r}")
    taps = prod(as_int(k, "kernel_size", minimum=1) for k in kernel_size)
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups must divide in_channels={in_channels} and out_channels={out_channels}, got groups={groups}"
        )
    return out_channels * (in_channels // groups * taps + as_bool(bias, "bias"))


def as_output_padding(output_padding: object, stride: Size, dilation: Size) -> Size:
    """The output padding of a transposed convolution, one integer an axis.

    Raises: TypeError for other types, ValueError unless 0 <= output_padding < max(stride, dilation) along every axis.
    """
    extra = as_tuple(output_padding, len(stride), "output_padding", minimum=0)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ValueError(
            f"output_padding must be smaller than the larger of stride={stride} and dilation={dilation} "
            f"along every axis, got output_padding={extra}"
        )
    return extra


def as_pool_padding(padding: object, kernel: Size, stride: Size, dilation: Size, name: str = "kernel_size") -> Pairs:
    """The padding of a pool as pairs, at most half of the undilated kernel on each side.

    Raises: as `as_padding`, and ValueError for a side above kernel // 2.
    """
    pairs = as_padding(padding, kernel, stride, dilation)
    if any(max(pair) > k // 2 for pair, k in zip(pairs, kernel, strict=True)):
        raise ValueError(f"padding must be at most half of {name}={kernel} on each side, got padding={pairs}")
    return pairs


def _as_in_size(size: object) -> Size:
    ndim = len(size) if isinstance(size, (tuple, list)) and size else 1
    return as_tuple(size, ndim, "size", minimum=1)


def _as_window(ndim: int, kernel: object, stride: object, dilation: object) -> tuple[Size, Size, Size]:
    return (
        as_tuple(kernel, ndim, "kernel", minimum=1),
        as_tuple(stride, ndim, "stride", minimum=1),
        as_tuple(dilation, ndim, "dilation", minimum=1),
    )


def _window_of(layer: object) -> tuple[object, object, object, object]:
    if isinstance(layer, (tuple, list)):
        if len(layer) not in (3, 4):
            raise ValueError(f"layers must hold (kernel, stride, dilation[, padding]), got {layer!r}")
        return layer[0], layer[1], layer[2], layer[3] if len(layer) == 4 else 0
    kind = type(layer).__name__
    if not hasattr(layer, "kernel_size"):
        raise TypeError(f"layers must have a window, (kernel, stride, dilation) or a kernel_size attribute, got {kind}")
    if getattr(layer, "transposed", "Transpose" in kind):
        raise ValueError(f"layers must not hold transposed convolutions, whose fields differ by position, got {kind}")
    kernel, stride = layer.kernel_size, getattr(layer, "stride", None)
    return kernel, kernel if stride is None else stride, getattr(layer, "dilation", 1), getattr(layer, "padding", 0)


def _like(size: object, sizes: Size) -> int | Size:
    return sizes[0] if is_int(size) else sizes
