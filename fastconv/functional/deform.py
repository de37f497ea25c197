"""Deformable convolution (v1 and v2) in two spatial dimensions, and its five gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._convolution import epilogue, exact_padding, exact_tuple
from fastconv.functional._output import check_gradient, output_array
from fastconv.geometry import check_array, check_same_dtype, deform_conv_geometry
from fastconv.geometry.arguments import IntOrTuple, Padding
from fastconv.kernels.core import isa_index
from fastconv.planner import DeformPlan, PlanCache

__all__ = ["deform_conv2d", "deform_conv2d_backward"]

Array = NDArray[Any]
Gradients = tuple[Array | None, Array | None, Array | None, Array | None, Array | None]
Needs = tuple[bool, bool, bool, bool, bool]

_plans: PlanCache[DeformPlan] = PlanCache()


def deform_conv2d(
    x: Array,
    offset: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    mask: Array | None = None,
    *,
    data_format: str = "channels_first",
    activation: str | None = None,
    out: Array | None = None,
) -> Array:
    """2-D convolution whose taps read where offsets move them, with bias and activation.

    ``y[n, f, o] = activation(bias[f] + sum over c, t of weight[f, c, t] * mask[n, t, o] * x[n, c, p])``,
    ``p = o * stride + t * dilation - padding + offset[n, t, o]``, x being bilinear between its pixels and 0 outside; c
    runs over the channels of f's group, and each of the offset groups' equal shares of channels has its own offsets.
    An offset that is infinite or NaN reads 0.

    Parameters
    ----------
    x : array (N, C_in, H, W) or (N, H, W, C_in), float32 or float64
    offset : array (N, offset_groups * KH * KW * 2, H_out, W_out), channels last as x, dtype of x
        In pixels; the channels are (offset group, tap, (y, x)). offset_groups divides C_in.
    weight : array (C_out, C_in / groups, KH, KW) in either layout, dtype of x
        groups, which divides C_in and C_out, is read off its shape.
    bias : array (C_out,), dtype of x, default None
    stride, dilation : int or tuple of 2, >= 1, default 1
    padding : int, tuple, pairs ((before, after), ...), "same" or "valid", default 0
    mask : array (N, offset_groups * KH * KW, H_out, W_out), channels last as x, dtype of x, default None: ones (v1)
    data_format : "channels_first" (default) or "channels_last", of x, offset, mask and y
    activation : None (default), "relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu" or
        "hardswish"
    out : array of y's shape and dtype, default None
        Where to write y; it may not overlap an input.

    Returns
    -------
    array (N, C_out, H_out, W_out) or (N, H_out, W_out, C_out)

    Raises
    ------
    TypeError
        An array is not float32 or float64, dtypes differ, or a number is not an integer.
    ValueError
        Shapes or parameters do not fit each other, or a name is unknown.

    Source
    ------
    Dai et al. (2017), Deformable convolutional networks; Zhu et al. (2019), Deformable ConvNets v2. The order of the
    channels and what happens at borders are torchvision's.
    """
    plan = _plan(x, offset, weight, bias, stride, padding, dilation, mask, data_format)
    curve = epilogue(activation)
    y = output_array(out, plan.geometry.y_shape, plan.dtype, x, offset, weight, bias, mask)
    plan.forward(x, offset, mask, weight, bias, y, *curve)
    return y


def deform_conv2d_backward(
    grad_y: Array,
    x: Array,
    offset: Array,
    weight: Array,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    mask: Array | None = None,
    need: Needs = (True, True, True, True, True),
    data_format: str = "channels_first",
) -> Gradients:
    """Gradients of `deform_conv2d` (without activation) with respect to x, offset, weight, bias and mask.

    With ``g[c, t, o] = sum over f of weight[f, c, t] * grad_y[n, f, o]`` and x(p) the bilinear sample of x at p:
    ``grad_x`` gives each sample's ``mask * g`` back to the pixels it was read from, by their shares,
    ``grad_offset = mask * sum over c of g * (derivative of x(p) by p)``, ``grad_mask = sum over c of g * x(p)``,
    ``grad_weight[f, c, t] = sum over n, o of grad_y[n, f, o] * mask * x(p)``,
    ``grad_bias[f] = sum over n, o of grad_y[n, f, o]``.

    Parameters
    ----------
    grad_y : array of the output's shape, dtype of x
    x, offset, weight, mask : as in `deform_conv2d`
    stride, padding, dilation, data_format : as in `deform_conv2d`
    need : five bools, default all True
        Which of the gradients of x, offset, weight, bias and mask to compute.

    Returns
    -------
    (grad_x, grad_offset, grad_weight, grad_bias, grad_mask)
        Shapes of x, offset, weight, (C_out,) and mask; None where not needed, grad_mask also without a mask.

    Raises
    ------
    TypeError, ValueError
        As in `deform_conv2d`.

    Source
    ------
    Dai et al. (2017), appendix A; Zhu et al. (2019). At whole numbers the derivative is that towards larger ones.
    """
    plan = _plan(x, offset, weight, None, stride, padding, dilation, mask, data_format)
    check_gradient(grad_y, plan.geometry.y_shape, "x and weight", x=x)
    if len(need) != 5:
        raise ValueError(f"need must be 5 bools, for x, offset, weight, bias and mask, got need={need}")
    return plan.backward(grad_y, x, offset, mask, weight, need)


def _plan(
    x: Array, offset: Array, weight: Array, bias: Array | None, stride: Any, padding: Any, dilation: Any,
    mask: Array | None, data_format: str,
) -> DeformPlan:  # fmt: skip
    """The plan of these arguments; raises all their errors."""
    arrays = {"x": (x, 4), "offset": (offset, 4), "weight": (weight, 4), "bias": (bias, 1), "mask": (mask, 4)}
    for name, (array, ndim) in arrays.items():
        if array is not None or name in ("x", "offset", "weight"):
            check_array(array, name, ndim)
    dtype = check_same_dtype(x=x, offset=offset, weight=weight, bias=bias, mask=mask)
    shapes = tuple(None if array is None else array.shape for array, _ in arrays.values())
    steps = exact_tuple(stride, 2, "stride"), exact_padding(padding, 2), exact_tuple(dilation, 2, "dilation")
    key = (isa_index(), dtype, *shapes, *steps, data_format)
    found = _plans.get(key)
    if found is not None:
        return found
    geometry, offset_groups = deform_conv_geometry(
        x.shape, offset.shape, weight.shape, stride=stride, padding=padding, dilation=dilation, mask_shape=shapes[4],
        data_format=data_format, bias_shape=shapes[3],
    )  # fmt: skip
    if dtype == np.float32 and geometry.in_size[0] * geometry.in_size[1] > 2**31 - 1:
        raise ValueError(f"x must have fewer than 2**31 pixels an image in float32, got x.shape={x.shape}")
    return _plans.put(key, DeformPlan(geometry, offset_groups, dtype))
