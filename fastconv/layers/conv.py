"""Convolution and transposed convolution, as layers."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from fastconv import init
from fastconv.functional import planned
from fastconv.functional.planned import PlansByShape
from fastconv.geometry import (
    PADDING_MODES,
    as_int,
    as_padding,
    as_tuple,
    check_choice,
    conv_transpose_output_size,
    is_channels_last,
)
from fastconv.layers.activation import activation_backward, check_activation
from fastconv.layers.base import Array, Layer, SpatialLayer
from fastconv.layers.weights import add_weights
from fastconv.runtime import ALGORITHMS


def check_channels(in_channels: int, out_channels: int, groups: int) -> tuple[int, int, int]:
    """Return the three as plain ints, or raise unless they are positive and groups divides the channels."""
    c_in = as_int(in_channels, "in_channels", minimum=1)
    c_out = as_int(out_channels, "out_channels", minimum=1)
    blocks = as_int(groups, "groups", minimum=1)
    if c_in % blocks or c_out % blocks:
        raise ValueError(f"groups must divide in_channels={c_in} and out_channels={c_out}, got groups={blocks}")
    return c_in, c_out, blocks


class ConvNd(SpatialLayer):
    """Convolution with learned weights; `Conv1d`, `Conv2d` and `Conv3d` are it with 1, 2 and 3 spatial axes.

    x (N, C_in, *L) or (N, *L, C_in) -> y (N, C_out, *L') or (N, *L', C_out), x may lack the batch axis;
    L' = floor((L + padding before + after - dilation * (K - 1) - 1) / stride) + 1.
    Parameters: weight (C_out, C_in / groups, *K), bias (C_out,), in either data_format.

    Parameters
    ----------
    in_channels, out_channels
        C_in and C_out.
    kernel_size, stride, dilation
        An integer or one an axis; stride and dilation are 1 by default.
    padding
        An integer, one an axis, ((before, after), ...), "same" or "valid". Default 0.
    groups
        Blocks of channels that are convolved apart. Default 1.
    bias
        Whether there is one. Default True.
    padding_mode
        "zeros" (default), "reflect", "replicate" or "circular".
    data_format
        "channels_first" (default) or "channels_last".
    activation
        None (default), "relu", "relu6", "leaky_relu", "elu", "sigmoid" or "tanh", fused with the convolution: those
        whose gradient y tells. One that needs x, as GELU does, is fused by `fuse`.
    algorithm
        What runs this layer, forward and backward: one of `fastconv.runtime.ALGORITHMS`, or None (default), the
        policy of `fastconv.algorithm` at each call.
    initializer
        A function of `fastconv.init`, which draws the weight, the bias being zero then; None draws both as PyTorch.
    dtype
        float32 (default) or float64.
    rng
        A NumPy generator, which is advanced, or a seed.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or does not fit the others.
    """

    operator = "conv{}d"
    padding_modes: ClassVar[tuple[str, ...]] = PADDING_MODES
    algorithms: ClassVar[tuple[str, ...]] = ALGORITHMS
    packs: ClassVar[bool] = True
    weight: Array
    bias: Array | None
    _packed: PlansByShape | None = None  # what runs forward in evaluation mode, with the weight packed

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        data_format: str = "channels_first",
        activation: str | None = None,
        algorithm: str | None = None,
        initializer: init.Initializer | None = None,
        dtype: DTypeLike = np.float32,
        rng: init.Rng = None,
    ) -> None:
        self._set_window(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self._set_options(padding_mode, data_format, activation, algorithm)
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        add_weights(self, shape, self.out_channels if bias else None, initializer, dtype, rng)

    def _set_window(
        self, in_channels: int, out_channels: int, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> None:
        self.in_channels, self.out_channels, self.groups = check_channels(in_channels, out_channels, groups)
        self.kernel_size = as_tuple(kernel, self.ndim, "kernel_size", minimum=1)
        self.stride = as_tuple(stride, self.ndim, "stride", minimum=1)
        self.dilation = as_tuple(dilation, self.ndim, "dilation", minimum=1)
        self.padding = as_padding(padding, self.kernel_size, self.stride, self.dilation)

    def _set_options(self, padding_mode: str, data_format: str, activation: str | None, algorithm: str | None) -> None:
        check_choice(padding_mode, "padding_mode", self.padding_modes)
        is_channels_last(data_format)
        check_activation(activation)
        if algorithm is not None:
            check_choice(algorithm, "algorithm", self.algorithms)
        self.padding_mode = padding_mode
        self.data_format = data_format
        self.activation = activation
        self.algorithm = algorithm

    def _window(self) -> dict[str, Any]:
        """What forward and backward are called with alike."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "padding_mode": self.padding_mode,
            "data_format": self.data_format,
            "algorithm": self.algorithm,
        }

    def forward(self, x: Array, residual: Array | None = None) -> Array:
        """Return y; a residual, an array like y, is added before the activation, in evaluation mode alone."""
        if residual is None:
            y = self._convolve(x)
            self.save(x, y if self.activation else None)
            return y
        if self.training:
            raise RuntimeError(f"residual of {type(self).__name__} is for evaluation mode: train with Residual instead")
        return self._convolve(x, residual=residual)

    def _convolve(self, x: Array, **extra: Any) -> Array:
        operator = self._packed or self.function
        y: Array = operator(x, self.weight, self.bias, **self._window(), **extra, activation=self.activation)
        return y

    def backward(self, grad_y: Array) -> Any:
        return self._backward(grad_y, need_x=True)

    def backward_parameters(self, grad_y: Array) -> None:
        self._backward(grad_y, need_x=False)

    def _backward(self, grad_y: Array, need_x: bool) -> Any:
        x, y = self.restore()
        grad_y = activation_backward(grad_y, y, self.activation)
        need = (need_x, True, self.bias is not None)
        grad_x, grad_weight, grad_bias = self.function_backward(grad_y, x, self.weight, **self._window(), need=need)
        self.accumulate(weight=grad_weight, bias=grad_bias)
        return grad_x

    def followed_by(self, layer: Layer) -> Layer | None:
        if self.activation is not None:
            return None
        activation, affine = layer.as_activation(), layer.as_affine(self.ndim + 2, self.data_format)
        if activation is not None:
            return self._ending_with(activation)
        if affine is not None and affine[0].shape == (self.out_channels,):
            return self._scaled(*affine)
        return None

    def with_residual(self, activation: str | None) -> Layer | None:
        return self._ending_with(activation) if self.activation is None else None

    def _ending_with(self, activation: str | None) -> Self:
        layer = copy.copy(self)
        layer.activation = activation
        return layer

    def _scaled(self, scale: Array, shift: Array) -> Self:
        """The same layer with scale * y + shift in place of y, its weight and bias computed in float64."""
        layer, dtype = copy.copy(self), self.weight.dtype
        bias = shift if self.bias is None else self.bias * scale + shift
        weight = (self._by_outputs(self.weight) * scale.reshape(self.groups, 1, -1, 1)).reshape(self.weight.shape)
        layer.__dict__ |= {"weight": weight.astype(dtype), "bias": bias.astype(dtype)}
        return layer

    def _by_outputs(self, weight: Array) -> Array:
        """The weight as (groups, inputs, outputs a group, taps); here there are no inputs before the outputs."""
        return weight.reshape(self.groups, 1, self.out_channels // self.groups, -1)

    def _unlock(self, writeable: bool) -> None:
        super()._unlock(writeable)
        packs = self.packs and self._pack and not writeable
        self._packed = PlansByShape(getattr(planned, f"plan_{self.operator.format(self.ndim)}")) if packs else None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": None}  # packs are neither copied nor pickled but made anew

    def extra_repr(self) -> str:
        shown = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        before, after = zip(*self.padding, strict=True)
        options = {
            "padding": (before if before == after else self.padding, (0,) * self.ndim),
            "dilation": (self.dilation, (1,) * self.ndim),
            "groups": (self.groups, 1),
            "bias": (self.bias is not None, True),
            "padding_mode": (self.padding_mode, "zeros"),
            "data_format": (self.data_format, "channels_first"),
            "activation": (self.activation, None),
            "algorithm": (self.algorithm, None),
        }
        return shown + "".join(f", {name}={value}" for name, (value, default) in options.items() if value != default)


class Conv1d(ConvNd, ndim=1):
    """Convolution of signals, x (N, C_in, L); arguments as for `ConvNd`."""


class Conv2d(ConvNd, ndim=2):
    """Convolution of images, x (N, C_in, H, W); arguments as for `ConvNd`."""


class Conv3d(ConvNd, ndim=3):
    """Convolution of volumes, x (N, C_in, D, H, W); arguments as for `ConvNd`."""


class ConvTransposeNd(ConvNd):
    """Transposed convolution; `ConvTranspose1d`, `ConvTranspose2d` and `ConvTranspose3d` are it with 1 to 3 axes.

    x (N, C_in, *L) or (N, *L, C_in) -> y (N, C_out, *L') or (N, *L', C_out), x may lack the batch axis;
    L' = stride * (L - 1) + dilation * (K - 1) + 1 - padding before - after + output_padding.
    Parameters: weight (C_in, C_out / groups, *K), bias (C_out,), in either data_format.

    Arguments as for `ConvNd`, but for their order, PyTorch's; padding is cut from y, output_padding, an integer or one
    an axis below max(stride, dilation), is added at its end; padding_mode can only be "zeros".
    """

    operator = "conv_transpose{}d"
    padding_modes = ("zeros",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        *,
        data_format: str = "channels_first",
        activation: str | None = None,
        algorithm: str | None = None,
        initializer: init.Initializer | None = None,
        dtype: DTypeLike = np.float32,
        rng: init.Rng = None,
    ) -> None:
        self._set_window(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self._set_options(padding_mode, data_format, activation, algorithm)
        self.output_padding = as_tuple(output_padding, self.ndim, "output_padding", minimum=0)
        shape = (self.in_channels, self.out_channels // self.groups, *self.kernel_size)
        add_weights(self, shape, self.out_channels if bias else None, initializer, dtype, rng)

    def _window(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "data_format": self.data_format,
            "algorithm": self.algorithm,
        }

    def forward(self, x: Array, output_size: Any = None) -> Array:
        """Return y; output_size, an integer or one an axis, chooses the output_padding of this call."""
        extra = self.output_padding if output_size is None else self._extra(x.shape, output_size)
        y = self._convolve(x, output_padding=extra)
        self.save(x, y if self.activation else None, extra)
        return y

    def _backward(self, grad_y: Array, need_x: bool) -> Any:
        x, y, extra = self.restore()
        grad_x, grad_weight, grad_bias = self.function_backward(
            activation_backward(grad_y, y, self.activation), x, self.weight, **self._window(), output_padding=extra,
            need=(need_x, True, self.bias is not None)
        )  # fmt: skip
        self.accumulate(weight=grad_weight, bias=grad_bias)
        return grad_x

    followed_by = ConvNd.followed_by  # but no residual is added to it

    def _by_outputs(self, weight: Array) -> Array:
        return weight.reshape(self.groups, -1, self.out_channels // self.groups, math.prod(self.kernel_size))

    def _extra(self, x_shape: tuple[int, ...], output_size: Any) -> tuple[int, ...]:
        wanted = as_tuple(output_size, self.ndim, "output_size", minimum=1)
        size = x_shape[-self.ndim - 1 : -1] if self.data_format == "channels_last" else x_shape[-self.ndim :]
        least = conv_transpose_output_size(size, self.kernel_size, self.stride, self.padding, 0, self.dilation)
        extra = np.subtract(wanted, least)
        most = np.maximum(self.stride, self.dilation) - 1
        if (extra < 0).any() or (extra > most).any():
            raise ValueError(f"output_size must be {least} or up to {tuple(most)} more, got output_size={wanted}")
        return tuple(extra.tolist())


class ConvTranspose1d(ConvTransposeNd, ndim=1):
    """Transposed convolution of signals, x (N, C_in, L); arguments as for `ConvTransposeNd`."""


class ConvTranspose2d(ConvTransposeNd, ndim=2):
    """Transposed convolution of images, x (N, C_in, H, W); arguments as for `ConvTransposeNd`."""


class ConvTranspose3d(ConvTransposeNd, ndim=3):
    """Transposed convolution of volumes, x (N, C_in, D, H, W); arguments as for `ConvTransposeNd`."""
