"""Transposed convolution in 1, 2 and 3 spatial dimensions: the gradient of a convolution as an operator of its own."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastconv.functional._convolution import (
    batched_shape,
    check_need,
    check_operands,
    documented,
    epilogue,
    exact_int,
    exact_padding,
    exact_tuple,
)
from fastconv.functional._output import check_gradient, contiguous, output_array
from fastconv.geometry import conv_transpose_geometry
from fastconv.geometry.arguments import IntOrTuple, Padding
from fastconv.kernels.core import isa_index
from fastconv.kernels.memory import empty
from fastconv.planner import ConvPlan, PlanCache
from fastconv.runtime import resolve_algorithm

__all__ = [
    "conv_transpose1d",
    "conv_transpose1d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "conv_transpose3d",
    "conv_transpose3d_backward",
]

Array = NDArray[Any]
Gradients = tuple[Array | None, Array | None, Array | None]


_plans: PlanCache[ConvPlan] = PlanCache()


def conv_transpose_plan(
    ndim: int, x: Array, weight: Array, bias: Array | None, stride: Any, padding: Any, output_padding: Any,
    groups: Any, dilation: Any, data_format: str, algorithm: str | None,
) -> ConvPlan:  # fmt: skip
    """The plan of the convolution whose backward_input is y: its input is y, its output x."""
    key = (
        isa_index(), ndim, x.shape, x.dtype, weight.shape, weight.dtype, bias is None or (bias.shape, bias.dtype),
        exact_tuple(stride, ndim, "stride"), exact_padding(padding, ndim),
        exact_tuple(output_padding, ndim, "output_padding"), exact_int(groups, "groups"),
        exact_tuple(dilation, ndim, "dilation"), data_format, resolve_algorithm(algorithm),
    )  # fmt: skip
    plan = _plans.get(key)
    if plan is not None:
        return plan
    dtype = check_operands(ndim, x, weight, bias)
    geometry = conv_transpose_geometry(
        batched_shape(x, ndim), weight.shape, stride=stride, padding=padding, output_padding=output_padding,
        groups=groups, dilation=dilation, data_format=data_format, bias_shape=None if bias is None else bias.shape,
        ndim=ndim,
    )  # fmt: skip
    return _plans.put(key, ConvPlan(geometry, dtype, algorithm=resolve_algorithm(algorithm)))


def _conv_transpose(
    ndim: int, x: Array, weight: Array, bias: Array | None, stride: Any, padding: Any, output_padding: Any,
    groups: Any, dilation: Any, data_format: str, activation: str | None, algorithm: str | None, out: Array | None,
) -> Array:  # fmt: skip
    check_operands(ndim, x, weight, bias)
    plan = conv_transpose_plan(
        ndim, x, weight, bias, stride, padding, output_padding, groups, dilation, data_format, algorithm
    )
    curve = epilogue(activation)
    y = output_array(out, plan.x_shape if x.ndim == ndim + 2 else plan.x_shape[1:], plan.dtype, x, weight, bias)
    plan.backward_input(x, weight, bias, y, *curve)
    return y


def _conv_transpose_backward(
    ndim: int, grad_y: Array, x: Array, weight: Array, stride: Any, padding: Any, output_padding: Any, groups: Any,
    dilation: Any, need: tuple[bool, bool, bool], data_format: str, algorithm: str | None,
) -> Gradients:  # fmt: skip
    check_operands(ndim, x, weight, None)
    check_need(need)
    plan = conv_transpose_plan(
        ndim, x, weight, None, stride, padding, output_padding, groups, dilation, data_format, algorithm
    )
    check_gradient(grad_y, plan.x_shape if x.ndim == ndim + 2 else plan.x_shape[1:], "x and weight", x=x)
    grad_x = grad_bias = None
    if need[0]:
        grad_x = empty(x.shape, plan.dtype)
        plan.forward(grad_y, weight, None, grad_x)
    grad_weight = plan.backward_weight(x, grad_y, True, False)[0] if need[1] else None
    if need[2]:
        channel = grad_y.ndim - 1 if plan.geometry.channels_last else grad_y.ndim - 1 - ndim
        grad_bias = contiguous(grad_y).sum(tuple(axis for axis in range(grad_y.ndim) if axis != channel))
    return grad_x, grad_weight, grad_bias


_FORWARD = """{ndim}-D transposed convolution, with bias and activation.

    ``y[n, f, i] = activation(bias[f] + sum over c, t, o with o * stride + t * dilation - padding = i of
    weight[c, f, t] * x[n, c, o])``; out = stride (in - 1) + dilation (K - 1) + 1 - before - after + output_padding.

    Parameters
    ----------
    x : array (N, C_in, {size}) or (N, {size}, C_in), float32 or float64; N may be left out
    weight : array (C_in, C_out / groups, {kernel}) in either layout, dtype of x
    bias : array (C_out,), dtype of x, default None
    stride, dilation : int or tuple of {ndim}, >= 1, default 1
    padding : int, tuple, pairs ((before, after), ...), "same" or "valid", default 0: positions cut from y
    output_padding : int or tuple of {ndim} below max(stride, dilation), default 0: positions added at y's end
    groups : int that divides C_in and C_out, default 1
    data_format : "channels_first" (default) or "channels_last", of x and y
    activation : None (default), "relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu" or
        "hardswish"
    algorithm : "auto", "direct", "depthwise", "grouped" or "winograd", default None: the policy of `fastconv.algorithm`
    out : array of y's shape and dtype, default None
        Where to write y; it may not overlap an input.

    Returns
    -------
    array (N, C_out, {out}) or (N, {out}, C_out)

    Raises
    ------
    TypeError
        An array is not float32 or float64, dtypes differ, or a number is not an integer.
    ValueError
        Shapes or parameters do not fit each other, or a name is unknown.

    Source
    ------
    Dumoulin and Visin (2016), A guide to convolution arithmetic for deep learning, section 4.
    """


_BACKWARD = """Gradients of `conv_transpose{ndim}d` (without activation) with respect to x, weight and bias.

    grad_x is the convolution of grad_y with weight, grad_weight the weight gradient of that convolution with x and
    grad_y in each other's place, and ``grad_bias[f] = sum over n, i of grad_y[n, f, i]``.

    Parameters
    ----------
    grad_y : array of the output's shape, dtype of x
    x, weight : as in `conv_transpose{ndim}d`
    stride, padding, output_padding, groups, dilation, data_format, algorithm : as in `conv_transpose{ndim}d`
    need : three bools, default all True
        Which of the gradients of x, weight and bias to compute.

    Returns
    -------
    (grad_x, grad_weight, grad_bias)
        Shapes of x, weight and (C_out,); None where not needed.

    Raises
    ------
    TypeError, ValueError
        As in `conv_transpose{ndim}d`.

    Source
    ------
    Dumoulin and Visin (2016), section 4.
    """


@documented(_FORWARD, 1)
def conv_transpose1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    *,
    data_format: str = "channels_first",
    activation: str | None = None,
    algorithm: str | None = None,
    out: Array | None = None,
) -> Array:
    return _conv_transpose(1, x, weight, bias, stride, padding, output_padding, groups, dilation, data_format,
                           activation, algorithm, out)  # fmt: skip


@documented(_BACKWARD, 1)
def conv_transpose1d_backward(
    grad_y: Array,
    x: Array,
    weight: Array,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    need: tuple[bool, bool, bool] = (True, True, True),
    data_format: str = "channels_first",
    algorithm: str | None = None,
) -> Gradients:
    return _conv_transpose_backward(1, grad_y, x, weight, stride, padding, output_padding, groups, dilation, need,
                                    data_format, algorithm)  # fmt: skip


@documented(_FORWARD, 2)
def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    *,
    data_format: str = "channels_first",
    activation: str | None = None,
    algorithm: str | None = None,
    out: Array | None = None,
) -> Array:
    return _conv_transpose(2, x, weight, bias, stride, padding, output_padding, groups, dilation, data_format,
                           activation, algorithm, out)  # fmt: skip


@documented(_BACKWARD, 2)
def conv_transpose2d_backward(
    grad_y: Array,
    x: Array,
    weight: Array,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    need: tuple[bool, bool, bool] = (True, True, True),
    data_format: str = "channels_first",
    algorithm: str | None = None,
) -> Gradients:
    return _conv_transpose_backward(2, grad_y, x, weight, stride, padding, output_padding, groups, dilation, need,
                                    data_format, algorithm)  # fmt: skip


@documented(_FORWARD, 3)
def conv_transpose3d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    *,
    data_format: str = "channels_first",
    activation: str | None = None,
    algorithm: str | None = None,
    out: Array | None = None,
) -> Array:
    return _conv_transpose(3, x, weight, bias, stride, padding, output_padding, groups, dilation, data_format,
                           activation, algorithm, out)  # fmt: skip


@documented(_BACKWARD, 3)
def conv_transpose3d_backward(
    grad_y: Array,
    x: Array,
    weight: Array,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    need: tuple[bool, bool, bool] = (True, True, True),
    data_format: str = "channels_first",
    algorithm: str | None = None,
) -> Gradients:
    return _conv_transpose_backward(3, grad_y, x, weight, stride, padding, output_padding, groups, dilation, need,
                                    data_format, algorithm)  # fmt: skip
