"""Convolution, transposed and deformable convolution, and columns summed into an image.

A weight that is a constant of the model is packed ahead, once for each of the last few shapes of x. Passes add to what
the specification has: an attribute `activation` of Conv and ConvTranspose, a fourth input of Conv, which is added
before the activation, and Affine, a scale and shift of each channel, as a convolution of one tap and one channel a
group.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from fastconv import functional as F
from fastconv.backends.onnx.graph import Node, is_float
from fastconv.backends.onnx.kernels import Array, Constants, Kernel, floating, operator, widened
from fastconv.backends.onnx.layout import as_first, as_lies, format_of, lies_last
from fastconv.backends.onnx.pointwise import activate
from fastconv.backends.onnx.pools import check_spatial
from fastconv.backends.onnx.windows import NDIMS, Pairs, Size, Windows, as_pairs, windows_of
from fastconv.functional import planned
from fastconv.functional.planned import SHAPES_KEPT, PlannedConv, plan_key
from fastconv.planner import PlanCache

Options = dict[str, Any]


class PackedWeight:
    """A constant weight and bias, packed for each of the last shapes of x."""

    def __init__(self, operator_name: str, weight: Array, bias: Array | None) -> None:
        self.weight, self.bias = weight, bias
        self._plan: Callable[..., PlannedConv] = getattr(planned, f"plan_{operator_name}")
        self._plans: PlanCache[PlannedConv] = PlanCache(SHAPES_KEPT)

    def plan(self, x: Array, last: bool, options: Callable[[], Options]) -> PlannedConv:
        """The plan for arrays like x, as it lies, made with these options if there is none."""
        key = plan_key(x.shape, None, last)
        plan = self._plans.get(key)
        if plan is None:
            made = self._plan(x.shape, self.weight, self.bias, data_format=format_of(last), **options())
            plan = self._plans.put(key, made)
        return plan


def describe(plan: PlannedConv) -> str:
    """A plan in a few words."""
    explained = plan.explain()
    return f"{explained.algorithm} ({', '.join(dict.fromkeys(explained.packing))})"


def constant(node: Node, position: int, constants: Constants) -> Array | None:
    """The constant behind an input, in a dtype that kernels compute in; None if it is none or left out."""
    array = constants.get(node.input(position))
    return np.ascontiguousarray(widened(array)) if is_float(array) else None


def is_packable(node: Node, constants: Constants) -> bool:
    """Whether weight and bias, inputs 1 and 2, are known ahead."""
    weight, bias = (constants.get(node.input(position)) for position in (1, 2))
    return is_float(weight) and (is_float(bias) or not node.input(2))


class Convolution:
    """A Conv, `name` being its operator's in `fastconv.functional` without the number of axes."""

    name = "conv"
    adds = True  # residuals

    def __init__(self, node: Node, constants: Constants) -> None:
        self.node, self.groups = node, node.get("group", 1)
        self.activation: str | None = node.get("activation", None)
        self.packed: PackedWeight | None = None
        weight = constant(node, 1, constants)
        if weight is not None and is_packable(node, constants):
            operator_name = f"{self.name}{windows_of(node, weight.shape[2:]).ndim}d"
            self.packed = PackedWeight(operator_name, weight, constant(node, 2, constants))

    def kernel(self) -> Kernel:
        """Runs the packed weight, or the one that is given."""
        if self.packed is None:
            return Kernel(floating(self.run_given), "packs its weight in each run")
        return Kernel(floating(self.run_packed), self.how, bound=(1, 2))

    @cached_property
    def windows(self) -> Windows:
        """Of the packed weight."""
        assert self.packed is not None
        return windows_of(self.node, self.packed.weight.shape[2:])

    def options(self, windows: Windows, x_shape: Size) -> Options:
        """What the operator is called with beside its arrays and the activation."""
        return {
            "stride": windows.strides, "padding": windows.padding(x_shape[2:]), "dilation": windows.dilations,
            "groups": self.groups,
        }  # fmt: skip

    def plan(self, x: Array) -> PlannedConv:
        """The packed weight's plan."""
        assert self.packed is not None
        last = lies_last(x)
        return self.packed.plan(
            as_lies(x, last), last, lambda: self.options(self.windows, x.shape) | {"activation": self.activation}
        )

    def how(self, x: Array, *others: Any) -> str:
        """The plan in a few words."""
        return describe(self.plan(x))

    def run_packed(self, x: Array, weight: None, bias: None = None, residual: Array | None = None) -> Array:
        """y of the packed weight."""
        assert self.packed is not None
        check_spatial(x, self.windows.ndim)
        plan, last = self.plan(x), lies_last(x)
        if residual is None:
            return as_first(plan(as_lies(x, last)), last)
        if residual.ndim == x.ndim and as_lies(residual, last).shape == plan.y_shape:
            return as_first(plan(as_lies(x, last), residual=as_lies(residual, last)), last)
        return self.run_given(x, self.packed.weight, self.packed.bias, residual)

    def run_given(self, x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None) -> Array:
        """y of any weight; a residual of another shape than y's is broadcast with it."""
        y = self._operate(x, weight, bias)
        return activate(y if residual is None else y + residual, self.activation)

    def _operate(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """The operator without what passes have added."""
        windows, last = windows_of(self.node, weight.shape[2:]), lies_last(x)
        check_spatial(x, windows.ndim)
        function = getattr(F, f"{self.name}{windows.ndim}d")
        options = self.options(windows, x.shape) | {"data_format": format_of(last)}
        return as_first(function(as_lies(x, last), weight, bias, **options), last)


class TransposedConvolution(Convolution):
    """A ConvTranspose. Where `output_shape` or SAME asks for more than there is, the end is filled with the bias."""

    name = "conv_transpose"
    adds = False

    def options(self, windows: Windows, x_shape: Size) -> Options:
        padding, beyond = self._sizes(windows, x_shape)
        room = [max(pair) - 1 for pair in zip(windows.strides, windows.dilations, strict=True)]
        return {
            "stride": windows.strides, "padding": padding, "dilation": windows.dilations, "groups": self.groups,
            "output_padding": tuple(map(min, beyond, room)),
        }  # fmt: skip

    def _sizes(self, windows: Windows, x_shape: Size) -> tuple[Pairs, Size]:
        """Padding that is cut off, and what is added at the end."""
        ndim, size = windows.ndim, x_shape[2:]
        extra = tuple(self.node.get("output_padding", (0,) * ndim)) or (0,) * ndim
        axes = zip(size, windows.strides, windows.extents, strict=True)
        whole = tuple((n - 1) * stride + extent for n, stride, extent in axes)
        wanted = tuple(self.node.get("output_shape", ()))[-ndim:]
        if windows.auto_pad.startswith("SAME") and not wanted:
            wanted = tuple(n * stride for n, stride in zip(size, windows.strides, strict=True))
        if not wanted:
            return windows.padding(size), extra
        missing = tuple(w - n for w, n in zip(wanted, whole, strict=True))
        padding = windows.split(tuple(max(0, e - m) for e, m in zip(extra, missing, strict=True)))
        return padding, tuple(max(e, m) for e, m in zip(extra, missing, strict=True))

    def _grown(self, windows: Windows, x_shape: Size) -> Size:
        """What is missing at the end of each axis, beyond what output_padding may be."""
        given = self.options(windows, x_shape)["output_padding"]
        return tuple(b - g for b, g in zip(self._sizes(windows, x_shape)[1], given, strict=True))

    def run_packed(self, x: Array, weight: None, bias: None = None, residual: Array | None = None) -> Array:
        assert self.packed is not None
        check_spatial(x, self.windows.ndim)
        if any(self._grown(self.windows, x.shape)):
            return self.run_given(x, self.packed.weight, self.packed.bias)
        last = lies_last(x)
        return as_first(self.plan(x)(as_lies(x, last)), last)

    def run_given(self, x: Array, weight: Array, bias: Array | None = None, residual: Array | None = None) -> Array:
        y = self._operate(x, weight, bias)
        grown = self._grown(windows_of(self.node, weight.shape[2:]), x.shape)
        return activate(_filled(y, grown, bias) if any(grown) else y, self.activation)


def _filled(y: Array, more: Size, bias: Array | None) -> Array:
    """y with more positions at the end of its spatial axes, which no tap reaches: they hold the bias."""
    whole = np.zeros((*y.shape[:2], *(n + m for n, m in zip(y.shape[2:], more, strict=True))), y.dtype)
    if bias is not None:
        whole += bias.reshape(-1, *(1,) * len(more))
    whole[tuple(map(slice, y.shape))] = y
    return whole


@operator("Conv")
def _conv(node: Node, constants: Constants) -> Kernel:
    return Convolution(node, constants).kernel()


@operator("ConvTranspose")
def _conv_transpose(node: Node, constants: Constants) -> Kernel:
    return TransposedConvolution(node, constants).kernel()


@operator("Affine")
def _affine(node: Node, constants: Constants) -> Kernel:
    scale, shift = constant(node, 1, constants), constant(node, 2, constants)
    assert scale is not None
    assert shift is not None
    activation, channels = node.get("activation", None), len(scale)
    packed = PackedWeight("conv1d", scale.reshape(-1, 1, 1), shift)
    options = {"groups": channels, "activation": activation}

    def lines(x: Array, last: bool) -> Array:
        """Planes as lines, whatever their axes."""
        return as_lies(x, last).reshape((len(x), -1, channels) if last else (len(x), channels, -1))

    def plan(x: Array) -> PlannedConv:
        last = lies_last(x)
        return packed.plan(lines(x, last), last, lambda: options)

    @floating
    def run(x: Array, scale_: None, shift_: None, residual: Array | None = None) -> Array:
        if x.ndim < 2 or x.shape[1] != channels:
            raise ValueError(f"its input must have {channels} channels, got shape {x.shape}")
        if x.size and (residual is None or residual.shape == x.shape):
            last = lies_last(x)
            y = plan(x)(lines(x, last), residual=None if residual is None else lines(residual, last))
            return as_first(y.reshape(as_lies(x, last).shape), last)
        by_channel = (-1, *(1,) * (x.ndim - 2))
        y = x * scale.reshape(by_channel) + shift.reshape(by_channel)
        return activate(y if residual is None else y + residual, activation)

    def how(x: Array, *others: Any) -> str:
        return describe(plan(x)) if x.size else "NumPy"

    return Kernel(run, how, bound=(1, 2))


@operator("DeformConv")
def _deform_conv(node: Node, constants: Constants) -> Kernel:
    @floating
    def run(x: Array, weight: Array, offset: Array, bias: Array | None = None, mask: Array | None = None) -> Array:
        windows = windows_of(node, weight.shape[2:])
        if windows.ndim != 2:
            raise ValueError(f"it must have 2 spatial axes, got a weight of shape {weight.shape}")
        _check_deform(node, x.shape, weight.shape, offset.shape)
        return F.deform_conv2d(
            x, offset, weight, bias, windows.strides, windows.padding(x.shape[2:]), windows.dilations, mask
        )

    return Kernel(run, "deformable")


def _check_deform(node: Node, x: Size, weight: Size, offset: Size) -> None:
    """Raise unless the shapes are those that `group` and `offset_group` say."""
    groups, offset_groups = node.get("group", 1), node.get("offset_group", 1)
    if weight[1] * groups != x[1]:
        raise ValueError(f"W must have {x[1]} / {groups} input channels for group={groups}, got shape {weight}")
    channels = 2 * offset_groups * weight[2] * weight[3]
    if offset[1:2] != (channels,):
        raise ValueError(f"offset must have {channels} channels for offset_group={offset_groups}, got shape {offset}")


@operator("Col2Im")
def _col2im(node: Node, constants: Constants) -> Kernel:
    @floating
    def run(x: Array, image_shape: Array, block_shape: Array) -> Array:
        image, block = tuple(image_shape.tolist()), tuple(block_shape.tolist())
        ndim, ones = len(block), (1,) * len(block)
        if x.ndim != 3 or ndim not in NDIMS:
            raise ValueError(f"x must be (N, C * block, L) with blocks of 1 to 3 axes, got {x.shape} and {block}")
        pads = as_pairs(node.get("pads", (0,) * 2 * ndim), ndim)
        return F.fold(x, image, block, node.get("dilations", ones), pads, node.get("strides", ones))

    return Kernel(run, "fold")
