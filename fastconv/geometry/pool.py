"""The geometry of pools, and of unfold and fold, whose windows are theirs."""

from dataclasses import dataclass
from math import prod

from fastconv.geometry.arguments import (
    IntOrTuple,
    Padding,
    Pairs,
    Size,
    as_bool,
    as_padding,
    as_shape,
    as_tuple,
    check_bytes,
    is_channels_last,
)
from fastconv.geometry.conv import activation_shape, split_activation, tame
from fastconv.geometry.sizes import as_pool_padding, ceil_window_counts, transposed_sizes, window_counts


@dataclass(frozen=True, slots=True)
class PoolGeometry:
    """A pool in normal form: plain integers, tuples of length `ndim`, valid by construction.

    Output position o of tap t reads the input at o * stride + t * dilation - before along each axis; a position
    outside 0 .. in_size - 1 is padding, or with `ceil_mode` the overhang beyond the padding.
    """

    ndim: int
    batch: int
    channels: int
    in_size: Size
    kernel: Size
    stride: Size
    padding: Pairs
    dilation: Size
    out_size: Size
    ceil_mode: bool
    channels_last: bool

    @property
    def x_shape(self) -> Size:
        """Shape of the batched input in its layout."""
        return activation_shape(self.batch, self.channels, self.in_size, self.channels_last)

    @property
    def y_shape(self) -> Size:
        """Shape of the batched output in its layout."""
        return activation_shape(self.batch, self.channels, self.out_size, self.channels_last)


@dataclass(frozen=True, slots=True)
class AdaptivePoolGeometry:
    """An adaptive pool in normal form: output o sees input positions floor(o L / O) up to ceil((o + 1) L / O)."""

    ndim: int
    batch: int
    channels: int
    in_size: Size
    out_size: Size
    channels_last: bool

    @property
    def x_shape(self) -> Size:
        """Shape of the batched input in its layout."""
        return activation_shape(self.batch, self.channels, self.in_size, self.channels_last)

    @property
    def y_shape(self) -> Size:
        """Shape of the batched output in its layout."""
        return activation_shape(self.batch, self.channels, self.out_size, self.channels_last)

    def windows(self, axis: int) -> list[tuple[int, int]]:
        """(start, stop) of every output position's window along a spatial axis."""
        size, count = self.in_size[axis], self.out_size[axis]
        return [(o * size // count, -(-(o + 1) * size // count)) for o in range(count)]

    def as_pool(self) -> PoolGeometry | None:
        """The plain pool that does the same, where every output size divides its input size; otherwise None."""
        if any(size % count for size, count in zip(self.in_size, self.out_size, strict=True)):
            return None
        kernel = tuple(size // count for size, count in zip(self.in_size, self.out_size, strict=True))
        none, ones = ((0, 0),) * self.ndim, (1,) * self.ndim
        return PoolGeometry(
            self.ndim,
            self.batch,
            self.channels,
            self.in_size,
            kernel,
            kernel,
            none,
            ones,
            self.out_size,
            False,
            self.channels_last,
        )


def pool_geometry(
    x_shape: Size,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    *,
    ceil_mode: bool = False,
    data_format: str = "channels_first",
    ndim: int,
) -> PoolGeometry:
    """The geometry of a max, average or Lp pool: floor((in + before + after - dilation (K - 1) - 1) / stride) + 1.

    With `ceil_mode` the division rounds up and a last window that would start at or beyond in + before is dropped.

    Parameters
    ----------
    x_shape: batched input shape, (N, C, *size) or (N, *size, C)
    kernel_size: int or tuple of `ndim` ints >= 1
    stride: int or tuple of `ndim` ints >= 1, default None: the kernel
    padding: int, tuple, pairs ((before, after), ...), "same" or "valid", default 0; at most kernel_size // 2 a side
    dilation: int or tuple of `ndim` ints >= 1, default 1
    ceil_mode: bool, default False
    data_format: "channels_first" (default) or "channels_last"
    ndim: number of spatial axes, 1 to 3

    Raises: TypeError and ValueError that name the argument, its value and what was expected.
    """
    channels_last = is_channels_last(data_format)
    batch, channels, in_size = split_activation(x_shape, "x.shape", ndim, channels_last)
    kernel, strides, dilations = _as_window(kernel_size, stride, dilation, ndim)
    pairs = as_pool_padding(padding, kernel, strides, dilations)
    ceil_mode = as_bool(ceil_mode, "ceil_mode")
    count = ceil_window_counts if ceil_mode else window_counts
    out_size = count(in_size, kernel, strides, pairs, dilations)
    _check_taps(in_size, kernel, pairs, dilations)
    check_bytes((batch, channels, *out_size), **{"x.shape": x_shape}, padding=pairs)
    strides, dilations = tame(in_size, kernel, strides, pairs, dilations)
    return PoolGeometry(
        ndim, batch, channels, in_size, kernel, strides, pairs, dilations, out_size, ceil_mode, channels_last
    )


def adaptive_pool_geometry(
    x_shape: Size, output_size: object, *, data_format: str = "channels_first", ndim: int
) -> AdaptivePoolGeometry:
    """The geometry of an adaptive pool: the caller names the output size, the windows follow.

    Parameters
    ----------
    x_shape: batched input shape, (N, C, *size) or (N, *size, C)
    output_size: int or tuple of `ndim` ints >= 1; None, alone or in the tuple, keeps the input size
    data_format: "channels_first" (default) or "channels_last"
    ndim: number of spatial axes, 1 to 3

    Raises: TypeError and ValueError that name the argument, its value and what was expected.
    """
    channels_last = is_channels_last(data_format)
    batch, channels, in_size = split_activation(x_shape, "x.shape", ndim, channels_last)
    wanted = output_size
    if wanted is None:
        wanted = in_size
    elif isinstance(wanted, (tuple, list)) and len(wanted) == ndim:
        wanted = tuple(size if w is None else w for w, size in zip(wanted, in_size, strict=True))
    out_size = as_tuple(wanted, ndim, "output_size", minimum=1)
    check_bytes((batch, channels, *out_size), **{"x.shape": x_shape}, output_size=out_size)
    return AdaptivePoolGeometry(ndim, batch, channels, in_size, out_size, channels_last)


def unpool_geometry(
    x_shape: Size,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: Padding = 0,
    output_size: Size | None = None,
    *,
    data_format: str = "channels_first",
    ndim: int,
) -> PoolGeometry:
    """The geometry of the max pool that a max_unpool inverts: `out_size` is x's size, `in_size` the result's.

    The result's size is stride (in - 1) + K - before - after unless `output_size` names another one.

    Parameters
    ----------
    x_shape: batched shape of the pooled values, (N, C, *size) or (N, *size, C)
    kernel_size: int or tuple of `ndim` ints >= 1
    stride: int or tuple of `ndim` ints >= 1, default None: the kernel
    padding: int, tuple or pairs, default 0; at most kernel_size // 2 a side
    output_size: the result's spatial size or whole shape, less than one stride away from the default; default None
    data_format: "channels_first" (default) or "channels_last"
    ndim: number of spatial axes, 1 to 3

    Raises: TypeError and ValueError that name the argument, its value and what was expected.
    """
    channels_last = is_channels_last(data_format)
    batch, channels, x_size = split_activation(x_shape, "x.shape", ndim, channels_last)
    kernel, strides, ones = _as_window(kernel_size, stride, 1, ndim)
    pairs = as_pool_padding(padding, kernel, strides, ones)
    y_size = transposed_sizes(x_size, kernel, strides, pairs, (0,) * ndim, ones)
    if output_size is not None:
        y_size = _named_output_size(output_size, y_size, strides, channels_last)
    check_bytes((batch, channels, *y_size), **{"x.shape": x_shape}, stride=strides)
    strides, ones = tame(y_size, kernel, strides, pairs, ones)
    return PoolGeometry(ndim, batch, channels, y_size, kernel, strides, pairs, ones, x_size, False, channels_last)


def unfold_geometry(
    x_shape: Size,
    kernel_size: IntOrTuple,
    dilation: IntOrTuple = 1,
    padding: Padding = 0,
    stride: IntOrTuple = 1,
    *,
    data_format: str = "channels_first",
    ndim: int,
) -> PoolGeometry:
    """The windows of unfold: `out_size` counts them along each axis, so the result has prod(out_size) columns.

    Parameters
    ----------
    x_shape: batched input shape, (N, C, *size) or (N, *size, C)
    kernel_size: int or tuple of `ndim` ints >= 1
    dilation, stride: int or tuple of `ndim` ints >= 1, default 1
    padding: int, tuple, pairs ((before, after), ...), "same" or "valid", default 0
    data_format: "channels_first" (default) or "channels_last"
    ndim: number of spatial axes, 1 to 3

    Raises: TypeError and ValueError that name the argument, its value and what was expected.
    """
    channels_last = is_channels_last(data_format)
    batch, channels, in_size = split_activation(x_shape, "x.shape", ndim, channels_last)
    kernel, strides, dilations = _as_window(kernel_size, stride, dilation, ndim)
    pairs = as_padding(padding, kernel, strides, dilations)
    out_size = window_counts(in_size, kernel, strides, pairs, dilations)
    check_bytes((batch, channels, *kernel, *out_size), **{"x.shape": x_shape}, kernel_size=kernel, padding=pairs)
    strides, dilations = tame(in_size, kernel, strides, pairs, dilations)
    return PoolGeometry(
        ndim, batch, channels, in_size, kernel, strides, pairs, dilations, out_size, False, channels_last
    )


def fold_geometry(
    x_shape: Size,
    output_size: IntOrTuple,
    kernel_size: IntOrTuple,
    dilation: IntOrTuple = 1,
    padding: Padding = 0,
    stride: IntOrTuple = 1,
    *,
    data_format: str = "channels_first",
    ndim: int,
) -> PoolGeometry:
    """The windows of the unfold whose adjoint this fold is: `in_size` is the result's size.

    Parameters
    ----------
    x_shape: batched columns, (N, C prod(kernel), windows) or (N, windows, C prod(kernel))
    output_size: int or tuple of `ndim` ints >= 1, the size folded into
    kernel_size: int or tuple of `ndim` ints >= 1
    dilation, stride: int or tuple of `ndim` ints >= 1, default 1
    padding: int, tuple, pairs ((before, after), ...), "same" or "valid", default 0
    data_format: "channels_first" (default) or "channels_last"
    ndim: number of spatial axes, 1 to 3

    Raises: TypeError and ValueError that name the argument, its value and what was expected.
    """
    channels_last = is_channels_last(data_format)
    layout = "(N, windows, C * taps)" if channels_last else "(N, C * taps, windows)"
    columns = as_shape(x_shape, 3, "x.shape", layout)
    batch, rows, windows = (columns[0], columns[2], columns[1]) if channels_last else columns
    size = as_tuple(output_size, ndim, "output_size", minimum=1)
    kernel = as_tuple(kernel_size, ndim, "kernel_size", minimum=1)
    taps = prod(kernel)
    if rows == 0 or rows % taps:
        raise ValueError(
            f"x.shape must be {layout} with a positive multiple of the {taps} taps of kernel_size={kernel}, "
            f"got x.shape={columns}"
        )
    image = activation_shape(batch, rows // taps, size, channels_last)
    geometry = unfold_geometry(image, kernel, dilation, padding, stride, data_format=data_format, ndim=ndim)
    if windows != prod(geometry.out_size):
        raise ValueError(
            f"x.shape must be {layout} with {prod(geometry.out_size)} windows, {geometry.out_size} of them in "
            f"output_size={size}, got x.shape={columns}"
        )
    return geometry


def _as_window(kernel_size: object, stride: object, dilation: object, ndim: int) -> tuple[Size, Size, Size]:
    kernel = as_tuple(kernel_size, ndim, "kernel_size", minimum=1)
    strides = kernel if stride is None else as_tuple(stride, ndim, "stride", minimum=1)
    return kernel, strides, as_tuple(dilation, ndim, "dilation", minimum=1)


def _check_taps(in_size: Size, kernel: Size, padding: Pairs, dilation: Size) -> None:
    """Raise when a window has all its taps in the padding, so that it has no maximum and no index.

    With padding <= kernel // 2 this takes a dilation above the input size, and then there is one window an axis.
    """
    for size, k, (before, _), d in zip(in_size, kernel, padding, dilation, strict=True):
        first_inside = -(-before // d)
        if k > 1 and first_inside * d - before >= size:
            raise ValueError(
                f"dilation must leave each window a tap inside the input size {in_size}, got dilation={dilation} "
                f"with kernel_size={kernel} and padding={padding}"
            )


def _named_output_size(output_size: object, default: Size, stride: Size, channels_last: bool) -> Size:
    ndim = len(default)
    whole = isinstance(output_size, (tuple, list)) and len(output_size) == ndim + 2
    if whole:
        output_size = output_size[1:-1] if channels_last else output_size[2:]  # type: ignore[index]
    size = as_tuple(output_size, ndim, "output_size", minimum=1)
    if any(abs(s - d) >= step for s, d, step in zip(size, default, stride, strict=True)):
        raise ValueError(
            f"output_size must be less than one stride {stride} away from {default}, got output_size={size}"
        )
    return size
