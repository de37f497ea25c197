"""Batch, layer and local response normalization and dropout, as layers."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastconv import functional as F
from fastconv import init
from fastconv.functional.activation import TOLD_BY_RESULT
from fastconv.geometry import as_int, is_channels_last
from fastconv.layers.activation import activation_backward, activation_layer, check_activation
from fastconv.layers.base import Array, Layer


class BatchNormNd(Layer):
    """Channels brought to mean 0 and variance 1, then scaled and shifted.

    y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual), x (N, C, *L) or (N, *L, C) -> y of the same
    shape. In training mode mean and var are the batch's, and the running
    ones follow them: running = (1 - momentum) * running + momentum * batch; in evaluation mode they are the running
    ones. Parameters: weight, bias (C,); buffers: running_mean, running_var (C,), num_batches_tracked ().

    Parameters
    ----------
    num_features
        C.
    eps
        Keeps the division finite. Default 1e-5.
    momentum
        How fast the running statistics follow, default 0.1; None makes them the mean of all batches.
    affine, bias
        Whether there are a weight and a bias, and whether, with affine, there is the bias. Default True.
    track_running_stats
        False makes evaluation use the batch's statistics too. Default True.
    activation
        None (default), "relu", "relu6", "leaky_relu", "elu", "sigmoid" or "tanh", in the same pass over memory.
    data_format
        "channels_first" (default) or "channels_last".
    dtype
        float32 (default) or float64.

    Source: Ioffe, Szegedy, "Batch Normalization", 2015, algorithm 1.
    """

    ranks: ClassVar[tuple[int, ...]]
    weight: Array | None
    bias: Array | None
    running_mean: Array | None
    running_var: Array | None
    num_batches_tracked: Array | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        activation: str | None = None,
        data_format: str = "channels_first",
        dtype: DTypeLike = np.float32,
    ) -> None:
        is_channels_last(data_format)
        check_activation(activation)
        self.num_features = as_int(num_features, "num_features", minimum=1)
        self.eps, self.momentum, self.data_format, self.activation = eps, momentum, data_format, activation
        self.affine, self.track_running_stats = affine, track_running_stats
        ones, zeros = np.ones(num_features, dtype), np.zeros(num_features, dtype)
        self.add_parameter("weight", ones if affine else None)
        self.add_parameter("bias", zeros if affine and bias else None)
        self.add_buffer("running_mean", zeros.copy() if track_running_stats else None)
        self.add_buffer("running_var", ones.copy() if track_running_stats else None)
        self.add_buffer("num_batches_tracked", np.array(0) if track_running_stats else None)

    def forward(self, x: Array, *, residual: Array | None = None, activation: str | None = None) -> Array:
        """Return y; with a residual, `activation` is what follows the sum, in place of the layer's own."""
        if x.ndim not in self.ranks:
            raise ValueError(f"x of {type(self).__name__} must have rank {self.ranks}, got shape {x.shape}")
        momentum = self.momentum or 0.0
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            if self.momentum is None:
                momentum = 1 / int(self.num_batches_tracked)
        y, statistics = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training or self.running_mean is None,
            momentum, self.eps, activation=activation or self.activation, residual=residual, return_statistics=True,
            data_format=self.data_format,
        )  # fmt: skip
        activation, summed = activation or self.activation, residual is not None
        # After a residual the activation's input cannot be computed again from x alone.
        self.save(x, statistics, activation, summed, y if summed and activation else None)
        return y

    def backward(self, grad_y: Array) -> Any:
        """Return the gradient of x or, after a forward with a residual, (gradient of x, gradient of the residual)."""
        x, statistics, activation, summed, y = self.restore()
        if summed and activation not in TOLD_BY_RESULT:
            grad_y, activation = activation_backward(grad_y, y, activation), None
        grad_x, grad_weight, grad_bias, *rest = F.batch_norm_backward(
            grad_y, x, self.weight, self.bias, running_mean=self.running_mean, running_var=self.running_var,
            training=True, eps=self.eps, activation=activation, statistics=statistics,
            y=None if activation is None else y, data_format=self.data_format,
        )  # fmt: skip
        self.accumulate(weight=grad_weight, bias=grad_bias)
        return (grad_x, *(rest or [grad_y])) if summed else grad_x

    def for_inference(self) -> list[Layer]:
        plain = copy.deepcopy(self)
        plain.activation = None
        return [plain] if self.activation is None else [plain, activation_layer(self.activation)]

    def as_affine(self, rank: int, data_format: str) -> tuple[Array, Array] | None:
        if self.running_mean is None or self.running_var is None or rank not in self.ranks:
            return None
        if data_format != self.data_format or self.activation is not None:
            return None
        scale = 1 / np.sqrt(self.running_var.astype(np.float64) + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -self.running_mean * scale
        return scale, shift if self.bias is None else shift + self.bias

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
            + (f", activation={self.activation}" if self.activation else "")
        )


class BatchNorm1d(BatchNormNd):
    """Batch normalization of features or signals, x (N, C) or (N, C, L); arguments as for `BatchNormNd`."""

    ranks = (2, 3)


class BatchNorm2d(BatchNormNd):
    """Batch normalization of images, x (N, C, H, W); arguments as for `BatchNormNd`."""

    ranks = (4,)


class BatchNorm3d(BatchNormNd):
    """Batch normalization of volumes, x (N, C, D, H, W); arguments as for `BatchNormNd`."""

    ranks = (5,)


class LayerNorm(Layer):
    """The last axes brought to mean 0 and variance 1, then scaled and shifted element by element.

    y = (x - mean) / sqrt(var + eps) * weight + bias, x (..., *normalized_shape) -> y of the same shape. Parameters:
    weight, bias (normalized_shape).

    Parameters
    ----------
    normalized_shape
        The sizes of the last axes, an integer or a tuple: C of x (N, *L, C) normalises each pixel.
    eps
        Keeps the division finite. Default 1e-5.
    elementwise_affine, bias
        Whether there are a weight and a bias, and whether, with the weight, there is the bias. Default True.
    dtype
        float32 (default) or float64.

    Source: Ba, Kiros, Hinton, "Layer Normalization", 2016, section 3.
    """

    weight: Array | None
    bias: Array | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        sizes = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
        self.normalized_shape = tuple(as_int(size, "normalized_shape", minimum=1) for size in sizes)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.add_parameter("weight", np.ones(self.normalized_shape, dtype) if elementwise_affine else None)
        self.add_parameter("bias", np.zeros(self.normalized_shape, dtype) if elementwise_affine and bias else None)

    def forward(self, x: Array) -> Array:
        self.save(x)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def backward(self, grad_y: Array) -> Array:
        (x,) = self.restore()
        grad_x, grad_weight, grad_bias = F.layer_norm_backward(
            grad_y, x, self.normalized_shape, self.weight, self.bias, self.eps
        )
        self.accumulate(weight=grad_weight, bias=grad_bias)
        return grad_x

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class LocalResponseNorm(Layer):
    """Every value divided by the energy of its neighbours in other channels, x (N, C, *L) -> y of the same shape.

    y[c] = x[c] / (k + alpha / size * sum of x[j]^2 over the size channels around c)^beta; alpha is 1e-4, beta 0.75 and
    k 1 by default.

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", 2012, 3.3.
    """

    def __init__(
        self,
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        *,
        data_format: str = "channels_first",
    ) -> None:
        is_channels_last(data_format)
        self.size = as_int(size, "size", minimum=1)
        self.alpha, self.beta, self.k, self.data_format = alpha, beta, k, data_format

    def forward(self, x: Array) -> Array:
        self.save(x)
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k, data_format=self.data_format)

    def backward(self, grad_y: Array) -> Array:
        (x,) = self.restore()
        return F.local_response_norm_backward(
            grad_y, x, self.size, self.alpha, self.beta, self.k, data_format=self.data_format
        )

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class Dropout(Layer):
    """In training mode every value is zeroed with probability p, the others divided by 1 - p; else y is x.

    p is 0.5 by default; `inplace` is accepted for PyTorch's signature; rng is a NumPy generator, which is advanced, or
    a seed.

    Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False, *, rng: init.Rng = None) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a probability from 0 to 1, got {p!r}")
        self.p = p
        self.rng = np.random.default_rng(rng)

    def forward(self, x: Array) -> Array:
        if not self.training:
            return x
        y, mask = F.dropout(x, self.p, True, self.rng)
        self.save(mask)
        return y

    def backward(self, grad_y: Array) -> Array:
        (mask,) = self.restore()
        return F.dropout_backward(grad_y, mask, self.p)

    def for_inference(self) -> list[Layer]:
        return []

    def extra_repr(self) -> str:
        return f"p={self.p}"
