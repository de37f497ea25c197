"""Windows as columns and columns summed back, in 1, 2 and 3 spatial dimensions, and their gradients."""

from __future__ import annotations

from math import prod
from typing import Any

from numpy.typing import NDArray

from fastconv.functional._convolution import exact_padding, exact_tuple
from fastconv.functional._output import check_like, contiguous, output_array
from fastconv.functional._pooling import as_x_shape, batched
from fastconv.geometry import PoolGeometry, check_array, fold_geometry, unfold_geometry
from fastconv.geometry.arguments import IntOrTuple, Padding
from fastconv.kernels.fold import FoldPlan
from fastconv.planner import PlanCache

__all__ = ["fold", "fold_backward", "unfold", "unfold_backward"]

Array = NDArray[Any]
Shape = tuple[int, ...]


class _Windows:
    """A geometry and its kernel."""

    def __init__(self, geometry: PoolGeometry) -> None:
        g = geometry
        before = tuple(pair[0] for pair in g.padding)
        axes = zip(g.in_size, g.out_size, g.kernel, g.stride, g.dilation, before, strict=True)
        self.run = FoldPlan(g.batch, g.channels, [(1, 1, 1, 1, 1, 0)] * (3 - g.ndim) + list(axes), g.channels_last)
        self.image_shape = g.x_shape
        rows, windows = g.channels * prod(g.kernel), prod(g.out_size)
        self.columns_shape = (g.batch, windows, rows) if g.channels_last else (g.batch, rows, windows)

    def unfold(self, image: Array, columns_shape: Shape, out: Array | None) -> Array:
        """The windows of an image."""
        columns = output_array(out, columns_shape, image.dtype, image)
        self.run(contiguous(image), columns, False)
        return columns

    def fold(self, columns: Array, image_shape: Shape, out: Array | None) -> Array:
        """The sum of windows."""
        image = output_array(out, image_shape, columns.dtype, columns)
        self.run(image, contiguous(columns), True)
        return image


_unfold_plans: PlanCache[_Windows] = PlanCache()
_fold_plans: PlanCache[_Windows] = PlanCache()


def _rank(sizes: Any, otherwise: int) -> int:
    """How many axes an argument names, where it names any."""
    return len(sizes) if isinstance(sizes, (tuple, list)) else otherwise


def _check_rank(ndim: int, name: str, shape: Shape) -> None:
    if not 1 <= ndim <= 3:
        raise ValueError(f"{name} must have 1 to 3 spatial axes, got {name}={shape}, taken to have {ndim}")


def _unfold_plan(
    shape: Shape, kernel_size: Any, dilation: Any, padding: Any, stride: Any, data_format: str, name: str
) -> tuple[_Windows, bool]:
    """The windows of an image, and whether that has a batch axis."""
    ndim = _rank(kernel_size, len(shape) - 2)
    _check_rank(ndim, name, shape)
    kernel_size, dilation = exact_tuple(kernel_size, ndim, "kernel_size"), exact_tuple(dilation, ndim, "dilation")
    padding, stride = exact_padding(padding, ndim), exact_tuple(stride, ndim, "stride")
    key = (ndim, shape, kernel_size, dilation, padding, stride, data_format)
    plan = _unfold_plans.get(key)
    if plan is None:
        geometry = unfold_geometry(
            batched(shape, ndim), kernel_size, dilation, padding, stride, data_format=data_format, ndim=ndim
        )
        plan = _unfold_plans.put(key, _Windows(geometry))
    return plan, len(shape) == ndim + 2


def _fold_plan(
    shape: Shape, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any, data_format: str
) -> _Windows:
    """The windows of the image that columns of this shape are summed into."""
    ndim = _rank(output_size, _rank(kernel_size, 2))
    _check_rank(ndim, "output_size", output_size)
    output_size, kernel_size = (
        exact_tuple(output_size, ndim, "output_size"),
        exact_tuple(kernel_size, ndim, "kernel_size"),
    )
    dilation, stride = exact_tuple(dilation, ndim, "dilation"), exact_tuple(stride, ndim, "stride")
    padding = exact_padding(padding, ndim)
    key = (ndim, shape, output_size, kernel_size, dilation, padding, stride, data_format)
    plan = _fold_plans.get(key)
    if plan is None:
        geometry = fold_geometry(
            batched(shape, 1), output_size, kernel_size, dilation, padding, stride, data_format=data_format, ndim=ndim
        )
        plan = _fold_plans.put(key, _Windows(geometry))
    return plan


def unfold(
    x: Array,
    kernel_size: IntOrTuple,
    dilation: IntOrTuple = 1,
    padding: Padding = 0,
    stride: IntOrTuple = 1,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Every window of x as a column.

    ``y[n, c * taps + t, o] = x[n, c, o * stride + t * dilation - padding]``, taps t and windows o counted by rows,
    zeros outside of x; with channels_last ``y[n, o, c * taps + t]``. So a convolution is a matrix product.

    Parameters
    ----------
    x : array (N, C, *spatial) or (N, *spatial, C), float32 or float64; N may be left out if kernel_size is a tuple
    kernel_size : int or tuple of ints >= 1
        A tuple names as many spatial axes, 1 to 3; with an int they are all but the first two axes of x.
    dilation, stride : int or tuple of ints >= 1, default 1
    padding : int, tuple, pairs ((before, after), ...), "same" or "valid", default 0
    data_format : "channels_first" (default) or "channels_last"
    out : array of y's shape and dtype, default None
        Where to write y; it may not overlap x.

    Returns
    -------
    array (N, C * taps, windows) or (N, windows, C * taps)

    Raises
    ------
    TypeError
        x is not float32 or float64, or a number is not an integer.
    ValueError
        Shapes or parameters do not fit each other.

    Source
    ------
    Chellapilla, Puri and Simard (2006), High Performance Convolutional Neural Networks for Document Processing,
    section 3.
    """
    check_array(x, "x")
    plan, has_batch = _unfold_plan(x.shape, kernel_size, dilation, padding, stride, data_format, "x.shape")
    return plan.unfold(x, plan.columns_shape if has_batch else plan.columns_shape[1:], out)


def unfold_backward(
    grad_y: Array,
    x_shape: Shape,
    kernel_size: IntOrTuple,
    dilation: IntOrTuple = 1,
    padding: Padding = 0,
    stride: IntOrTuple = 1,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of `unfold` with respect to x: every element sums what its copies get.

    ``grad_x[n, c, i] = sum of grad_y[n, c * taps + t, o] over o * stride + t * dilation - padding = i``

    Parameters
    ----------
    grad_y : array of y's shape, float32 or float64
    x_shape : shape of x
    kernel_size, dilation, padding, stride, data_format : as in `unfold`
    out : array of x's shape and dtype, default None

    Returns
    -------
    array
        grad_x, shape of x.

    Raises
    ------
    TypeError, ValueError
        As in `unfold`.
    """
    check_array(grad_y, "grad_y", (2, 3))
    x_shape = as_x_shape(x_shape)
    plan, has_batch = _unfold_plan(x_shape, kernel_size, dilation, padding, stride, data_format, "x_shape")
    check_like(grad_y, "grad_y", plan.columns_shape if has_batch else plan.columns_shape[1:], "x_shape")
    return plan.fold(grad_y, x_shape, out)


def fold(
    x: Array,
    output_size: IntOrTuple,
    kernel_size: IntOrTuple,
    dilation: IntOrTuple = 1,
    padding: Padding = 0,
    stride: IntOrTuple = 1,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Columns summed into the image whose windows they are, the adjoint of `unfold`.

    ``y[n, c, i] = sum of x[n, c * taps + t, o] over o * stride + t * dilation - padding = i``

    Parameters
    ----------
    x : array (N, C * taps, windows) or (N, windows, C * taps), float32 or float64; N may be left out
    output_size : int or tuple of ints >= 1, the spatial size of y
    kernel_size : int or tuple of ints >= 1
        A tuple here or there names as many spatial axes, 1 to 3; with ints there are 2.
    dilation, stride : int or tuple of ints >= 1, default 1
    padding : int, tuple, pairs ((before, after), ...), "same" or "valid", default 0
    data_format : "channels_first" (default) or "channels_last"
    out : array of y's shape and dtype, default None
        Where to write y; it may not overlap x.

    Returns
    -------
    array (N, C, *output_size) or (N, *output_size, C)

    Raises
    ------
    TypeError
        x is not float32 or float64, or a number is not an integer.
    ValueError
        Shapes or parameters do not fit each other.

    Source
    ------
    Chellapilla, Puri and Simard (2006), High Performance Convolutional Neural Networks for Document Processing,
    section 3.
    """
    check_array(x, "x", (2, 3))
    plan = _fold_plan(x.shape, output_size, kernel_size, dilation, padding, stride, data_format)
    return plan.fold(x, plan.image_shape if x.ndim == 3 else plan.image_shape[1:], out)


def fold_backward(
    grad_y: Array,
    x_shape: Shape,
    output_size: IntOrTuple,
    kernel_size: IntOrTuple,
    dilation: IntOrTuple = 1,
    padding: Padding = 0,
    stride: IntOrTuple = 1,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of `fold` with respect to x: the windows of grad_y.

    ``grad_x[n, c * taps + t, o] = grad_y[n, c, o * stride + t * dilation - padding]``

    Parameters
    ----------
    grad_y : array of y's shape, float32 or float64
    x_shape : shape of x
    output_size, kernel_size, dilation, padding, stride, data_format : as in `fold`
    out : array of x's shape and dtype, default None

    Returns
    -------
    array
        grad_x, shape of x.

    Raises
    ------
    TypeError, ValueError
        As in `fold`.
    """
    check_array(grad_y, "grad_y")
    x_shape = as_x_shape(x_shape)
    if len(x_shape) not in (2, 3):
        raise ValueError(f"x_shape must have 2 or 3 dimensions, got x_shape={x_shape}")
    plan = _fold_plan(x_shape, output_size, kernel_size, dilation, padding, stride, data_format)
    check_like(grad_y, "grad_y", plan.image_shape if len(x_shape) == 3 else plan.image_shape[1:], "x_shape")
    return plan.unfold(grad_y, x_shape, out)
