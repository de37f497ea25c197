"""Convolution in 1, 2 and 3 spatial dimensions, and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
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
    flip,
)
from fastconv.functional._output import check_gradient, residual_output
from fastconv.functional.padding import pad_backward
from fastconv.geometry import conv_geometry
from fastconv.geometry.arguments import IntOrTuple, Padding
from fastconv.kernels.core import isa_index
from fastconv.kernels.memory import empty
from fastconv.planner import ConvPlan, PlanCache
from fastconv.runtime import resolve_algorithm

__all__ = ["conv1d", "conv1d_backward", "conv2d", "conv2d_backward", "conv3d", "conv3d_backward"]

Array = NDArray[Any]
Gradients = tuple[Array | None, Array | None, Array | None]


_plans: PlanCache[ConvPlan] = PlanCache()


def conv_plan(
    ndim: int, x: Array, weight: Array, bias: Array | None, stride: Any, padding: Any, dilation: Any, groups: Any,
    padding_mode: str, data_format: str, algorithm: str | None,
) -> ConvPlan:  # fmt: skip
    """The plan of these arguments; raises the errors of all of them."""
    if type(stride) is not int or type(dilation) is not int or type(groups) is not int or type(padding) is not int:
        stride, dilation = exact_tuple(stride, ndim, "stride"), exact_tuple(dilation, ndim, "dilation")
        groups, padding = exact_int(groups, "groups"), exact_padding(padding, ndim)
    key = (
        isa_index(), ndim, x.shape, x.dtype, weight.shape, weight.dtype, bias is None or (bias.shape, bias.dtype),
        stride, padding, dilation, groups, padding_mode, data_format, resolve_algorithm(algorithm),
    )  # fmt: skip
    plan = _plans.get(key)
    if plan is not None:
        return plan
    dtype = check_operands(ndim, x, weight, bias)
    geometry = conv_geometry(
        batched_shape(x, ndim), weight.shape, stride=stride, padding=padding, dilation=dilation, groups=groups,
        padding_mode=padding_mode, data_format=data_format, bias_shape=None if bias is None else bias.shape, ndim=ndim,
    )  # fmt: skip
    return _plans.put(key, ConvPlan(geometry, dtype, padding_mode, resolve_algorithm(algorithm)))


def _conv(
    ndim: int, x: Array, weight: Array, bias: Array | None, stride: Any, padding: Any, dilation: Any, groups: Any,
    padding_mode: str, data_format: str, activation: str | None, residual: Array | None, flip_kernel: bool,
    algorithm: str | None, out: Array | None,
) -> Array:  # fmt: skip
    if type(x) is not np.ndarray or type(weight) is not np.ndarray or not (bias is None or type(bias) is np.ndarray):
        check_operands(ndim, x, weight, bias)
    plan = conv_plan(ndim, x, weight, bias, stride, padding, dilation, groups, padding_mode, data_format, algorithm)
    weight, curve = flip(weight, flip_kernel), epilogue(activation)
    shape = plan.y_shape if x.ndim == ndim + 2 else plan.y_shape[1:]
    y = residual_output(out, shape, plan.dtype, residual, x, weight, bias)
    plan.forward(x, weight, bias, y, *curve, residual)
    return y


def _conv_backward(
    ndim: int, grad_y: Array, x: Array, weight: Array, stride: Any, padding: Any, dilation: Any, groups: Any,
    need: tuple[bool, bool, bool], padding_mode: str, data_format: str, flip_kernel: bool, algorithm: str | None,
) -> Gradients:  # fmt: skip
    check_operands(ndim, x, weight, None)
    check_need(need)
    weight = flip(weight, flip_kernel)
    plan = conv_plan(ndim, x, weight, None, stride, padding, dilation, groups, padding_mode, data_format, algorithm)
    check_gradient(grad_y, plan.y_shape if x.ndim == ndim + 2 else plan.y_shape[1:], "x and weight", x=x)
    grad_x = _backward_input(plan, grad_y, weight).reshape(x.shape) if need[0] else None
    grad_weight = grad_bias = None
    if need[1] or need[2]:
        grad_weight, grad_bias = plan.backward_weight(grad_y, x, need[1], need[2])
    return grad_x, None if grad_weight is None else flip(grad_weight, flip_kernel), grad_bias


def _backward_input(plan: ConvPlan, grad_y: Array, weight: Array) -> Array:
    """Of the padded input where padding is not zeros, and from there what each pixel was copied to is summed up."""
    grad_x = empty(plan.unpadded.geometry.x_shape, plan.dtype)
    plan.unpadded.backward_input(grad_y, weight, None, grad_x)
    if plan.padding_mode == "zeros":
        return grad_x
    data_format = "channels_last" if plan.geometry.channels_last else "channels_first"
    return pad_backward(grad_x, plan.geometry.padding, plan.padding_mode, data_format=data_format)


_FORWARD = """{ndim}-D convolution (cross-correlation), with bias, residual and activation.

    ``y[n, f, o] = activation(bias[f] + residual[n, f, o] + sum over c, t
    of weight[f, c, t] * x[n, c, o * stride + t * dilation - before])``,
    c running over the C_in / groups channels of f's group and
    ``out = floor((in + before + after - dilation (K - 1) - 1) / stride) + 1``.

    Parameters
    ----------
    x : array (N, C_in, {size}) or (N, {size}, C_in), float32 or float64; N may be left out
    weight : array (C_out, C_in / groups, {kernel}) in either layout, dtype of x
    bias : array (C_out,), dtype of x, default None
    stride, dilation : int or tuple of {ndim}, >= 1, default 1
    padding : int, tuple, pairs ((before, after), ...), "same" or "valid", default 0
    groups : int that divides C_in and C_out, default 1
    padding_mode : "zeros" (default), "reflect", "replicate" or "circular"
    data_format : "channels_first" (default) or "channels_last", of x and y
    activation : None (default), "relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu" or
        "hardswish"
    residual : array of y's shape, layout and dtype, default None
        Added before the activation; its gradient is that of the activation's input.
    flip_kernel : bool, default False
        True convolves in the mathematical sense: the kernel is turned about along every axis.
    algorithm : "auto", "direct", "depthwise", "grouped" or "winograd", default None: the policy of `fastconv.algorithm`
    out : array of y's shape and dtype, default None
        Where to write y; it may not overlap an input, but may be `residual` itself.

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
    Dumoulin and Visin (2016), A guide to convolution arithmetic for deep learning, sections 2 and 5.1.
    """


_BACKWARD = """Gradients of `conv{ndim}d` (without residual and activation) with respect to x, weight and bias.

    ``grad_x[n, c, i] = sum over f, t, o with o * stride + t * dilation - before = i
    of weight[f, c, t] * grad_y[n, f, o]``,
    ``grad_weight[f, c, t] = sum over n, o of grad_y[n, f, o] * x[n, c, o * stride + t * dilation - before]``,
    ``grad_bias[f] = sum over n, o of grad_y[n, f, o]``

    Parameters
    ----------
    grad_y : array of the output's shape, dtype of x
    x, weight : as in `conv{ndim}d`
    stride, padding, dilation, groups, padding_mode, data_format, flip_kernel, algorithm : as in `conv{ndim}d`
    need : three bools, default all True
        Which of the gradients of x, weight and bias to compute.

    Returns
    -------
    (grad_x, grad_weight, grad_bias)
        Shapes of x, weight and (C_out,); None where not needed.

    Raises
    ------
    TypeError, ValueError
        As in `conv{ndim}d`.

    Source
    ------
    Dumoulin and Visin (2016), section 4; Goodfellow, Bengio and Courville (2016), Deep Learning, section 9.5.
    """


@documented(_FORWARD, 1)
def conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    activation: str | None = None,
    residual: Array | None = None,
    flip_kernel: bool = False,
    algorithm: str | None = None,
    out: Array | None = None,
) -> Array:
    return _conv(1, x, weight, bias, stride, padding, dilation, groups, padding_mode, data_format, activation,
                 residual, flip_kernel, algorithm, out)  # fmt: skip


@documented(_BACKWARD, 1)
def conv1d_backward(
    grad_y: Array,
    x: Array,
    weight: Array,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    need: tuple[bool, bool, bool] = (True, True, True),
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    flip_kernel: bool = False,
    algorithm: str | None = None,
) -> Gradients:
    return _conv_backward(1, grad_y, x, weight, stride, padding, dilation, groups, need, padding_mode, data_format,
                          flip_kernel, algorithm)  # fmt: skip


@documented(_FORWARD, 2)
def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    activation: str | None = None,
    residual: Array | None = None,
    flip_kernel: bool = False,
    algorithm: str | None = None,
    out: Array | None = None,
) -> Array:
    return _conv(2, x, weight, bias, stride, padding, dilation, groups, padding_mode, data_format, activation,
                 residual, flip_kernel, algorithm, out)  # fmt: skip


@documented(_BACKWARD, 2)
def conv2d_backward(
    grad_y: Array,
    x: Array,
    weight: Array,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    need: tuple[bool, bool, bool] = (True, True, True),
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    flip_kernel: bool = False,
    algorithm: str | None = None,
) -> Gradients:
    return _conv_backward(2, grad_y, x, weight, stride, padding, dilation, groups, need, padding_mode, data_format,
                          flip_kernel, algorithm)  # fmt: skip


@documented(_FORWARD, 3)
def conv3d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    activation: str | None = None,
    residual: Array | None = None,
    flip_kernel: bool = False,
    algorithm: str | None = None,
    out: Array | None = None,
) -> Array:
    return _conv(3, x, weight, bias, stride, padding, dilation, groups, padding_mode, data_format, activation,
                 residual, flip_kernel, algorithm, out)  # fmt: skip


@documented(_BACKWARD, 3)
def conv3d_backward(
    grad_y: Array,
    x: Array,
    weight: Array,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    need: tuple[bool, bool, bool] = (True, True, True),
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    flip_kernel: bool = False,
    algorithm: str | None = None,
) -> Gradients:
    return _conv_backward(3, grad_y, x, weight, stride, padding, dilation, groups, need, padding_mode, data_format,
                          flip_kernel, algorithm)  # fmt: skip
