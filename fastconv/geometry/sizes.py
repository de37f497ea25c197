"""Output sizes of windowed operators, receptive fields and parameter counts.

Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016), sections 2 and 4;
Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks" (Distill, 2019).
"""

from fastconv.geometry.arguments import (
    IntOrTuple,
    Padding,
    Pairs,
    Size,
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


def window_counts(in_size: Size, kernel: Size, stride: Size, padding: Pairs, dilation: Size) -> Size:
    """How many whole windows fit along each axis: floor((in + before + after - reach) / stride) + 1.

    Raises: ValueError when a window is larger than the padded input or a size leaves 64 bits.
    """
    reach, padded = window_reach(kernel, dilation), padded_size(in_size, padding)
    if any(r > p for r, p in zip(reach, padded, strict=True)):
        raise ValueError(
            f"kernel_size must fit into the padded input size {padded}, "
            f"got kernel_size={kernel}, dilation={dilation} (spanning {reach})"
        )
    return tuple((p - r) // s + 1 for p, r, s in zip(padded, reach, stride, strict=True))


def ceil_window_counts(in_size: Size, kernel: Size, stride: Size, padding: Pairs, dilation: Size) -> Size:
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
            f"kernel_size must leave at least one window in the padded input size {padded} and stride {stride}, "
            f"got kernel_size={kernel}, dilation={dilation} (spanning {reach})"
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
            f"padding must leave an output size >= 1 along every axis, got padding={padding} and the size {tuple(sizes)}"
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
    counts = window_counts(in_size, windows[0], windows[1], as_padding(padding, *windows), windows[2])
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
    pairs = as_pool_padding(padding, *windows)
    count = ceil_window_counts if ceil_mode else window_counts
    return _like(size, count(in_size, windows[0], windows[1], pairs, windows[2]))


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


def as_pool_padding(padding: object, kernel: Size, stride: Size, dilation: Size) -> Pairs:
    """The padding of a pool as pairs, at most half of the undilated kernel on each side.

    Raises: as `as_padding`, and ValueError for a side above kernel // 2.
    """
    pairs = as_padding(padding, kernel, stride, dilation)
    if any(max(pair) > k // 2 for pair, k in zip(pairs, kernel, strict=True)):
        raise ValueError(f"padding must be at most half of kernel_size={kernel} on each side, got padding={pairs}")
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


def _like(size: object, sizes: Size) -> int | Size:
    return sizes[0] if is_int(size) else sizes
