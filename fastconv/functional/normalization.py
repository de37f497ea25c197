"""Normalisation over a batch or over neighbouring channels, and dropout; each with its backward."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.functional._output import (
    check_channel_values,
    check_gradient,
    check_like,
    contiguous,
    output_array,
    residual_output,
)
from fastconv.functional.activation import TOLD_BY_RESULT, curve
from fastconv.geometry import as_bool, as_float, as_int, check_array, check_same_dtype, is_channels_last
from fastconv.kernels import normalize, rowwise
from fastconv.kernels.memory import empty
from fastconv.kernels.response_norm import response_norm

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "dropout",
    "dropout_backward",
    "local_response_norm",
    "local_response_norm_backward",
]

Array = NDArray[Any]


def batch_norm(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    residual: Array | None = None,
    return_statistics: bool = False,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Any:
    """Normalise each channel to mean 0 and variance 1, then scale and shift it.

    ``y = activation((x - mean) / sqrt(var + eps) * weight + bias + residual)``; in training mean and var (over N) are
    those of x over every axis but the channels, and the running ones move towards them in place:
    ``running = (1 - momentum) * running + momentum * batch``, running_var with the unbiased variance (over N - 1).

    Parameters
    ----------
    x : array (N, C), (N, C, *spatial) or (N, *spatial, C), float32 or float64
    running_mean, running_var : arrays (C,), dtype of x
        Both may be None in training.
    weight, bias : arrays (C,), dtype of x, default None
        None stands for ones and zeros.
    training : bool, default False
    momentum : float, default 0.1
    eps : float, default 1e-5
    activation : None (default), "relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "gelu_tanh", "silu" or
        "hardswish"
    residual : array like x, default None
        Added before the activation; its gradient is that of the activation's input. It may be out itself.
    return_statistics : bool, default False
        In training, whether to return also what `batch_norm_backward` need not compute again.
    data_format : "channels_first" or "channels_last", default "channels_first"
    out : array like x, default None

    Returns
    -------
    array
        y, shape and dtype of x; with return_statistics (y, statistics), the latter an array (2, C) of mean and biased
        var in float64, or None outside training.

    Raises
    ------
    TypeError
        A dtype is not float32 or float64, or they differ.
    ValueError
        A shape does not fit, running statistics are missing outside training or read-only in it, a channel has
        one value in training, activation is unknown, or out differs in shape, is read-only or overlaps an input.

    Source
    ------
    Ioffe, Szegedy: Batch Normalization (2015), algorithms 1 and 2.
    """
    channel = _check_batch(x, data_format)
    check_channel_values(
        x, x.shape[channel], running_mean=running_mean, running_var=running_var, weight=weight, bias=bias
    )
    _check_statistics(x, channel, running_mean, running_var, training, eps)
    as_float(momentum, "momentum")
    if training and not all(a is None or a.flags.writeable for a in (running_mean, running_var)):
        raise ValueError("running_mean and running_var must be writeable in training, got a read-only array")
    as_bool(return_statistics, "return_statistics")
    kind, alpha = curve(activation)
    out = residual_output(out, x.shape, x.dtype, residual, x, running_mean, running_var, weight, bias)
    statistics = np.zeros((2, x.shape[channel])) if training else None
    if x.size:
        blocks, per_row = _blocks(x, channel)
        added = None if residual is None else contiguous(residual)
        normalize.batch_norm(
            blocks, per_row, running_mean, running_var, weight, bias, training, momentum, eps, kind, alpha, added,
            statistics, out,
        )  # fmt: skip
    return (out, statistics) if return_statistics else out


def batch_norm_backward(
    grad_y: Array,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    *,
    running_mean: Array | None,
    running_var: Array | None,
    training: bool,
    eps: float = 1e-5,
    activation: str | None = None,
    statistics: Array | None = None,
    y: Array | None = None,
    data_format: str = "channels_first",
) -> tuple[Any, ...]:
    """Gradients of `batch_norm`.

    With ``h = (x - mean) / sqrt(var + eps)``, ``g = grad_y * activation'(h * weight + bias)`` and sums over every axis
    but the channels (n values each): ``grad_bias = sum g``, ``grad_weight = sum g * h``, and
    ``grad_x = weight / sqrt(var + eps) * (g - grad_bias / n - h * grad_weight / n)`` in training;
    outside it the statistics are constants and the last two terms fall away.

    Parameters
    ----------
    grad_y : array like x
    x, weight, bias, running_mean, running_var, training, eps, activation, data_format
        As given to `batch_norm`. In training the running statistics are neither read nor written.
    statistics : array (2, C) float64, default None
        What `batch_norm` returned of x in training; None computes them again.
    y : array like x, default None
        What `batch_norm` returned, if a residual was added: x alone does not tell the activation's derivative then. y
        tells it of None, "relu", "relu6", "leaky_relu", "sigmoid" and "tanh".

    Returns
    -------
    (grad_x, grad_weight, grad_bias) or, with y, (grad_x, grad_weight, grad_bias, grad_residual)
        Shapes of x, (C,), (C,) and x; None for a weight or bias that is None. grad_residual is g, so that without an
        activation it is grad_y itself.

    Raises
    ------
    TypeError, ValueError
        As `batch_norm`; also if grad_y or y differs from x, or statistics from what `batch_norm` returned, in shape or
        dtype, or y does not tell the activation's derivative.
    """
    channel = _check_batch(x, data_format)
    check_gradient(grad_y, x.shape, "x", x=x)
    check_channel_values(
        x, x.shape[channel], running_mean=running_mean, running_var=running_var, weight=weight, bias=bias
    )
    _check_statistics(x, channel, running_mean, running_var, training, eps)
    kind, alpha = curve(activation)
    if statistics is not None:
        statistics = _as_statistics(statistics, x.shape[channel])
    grad_residual = None
    if y is not None:
        _check_result(y, x, activation)
        y, grad_residual = contiguous(y), grad_y if activation is None else empty(x.shape, x.dtype)
    grad_x = empty(x.shape, x.dtype)
    grad_weight, grad_bias = (None if a is None else np.zeros(len(a), x.dtype) for a in (weight, bias))
    if x.size:
        blocks, per_row = _blocks(x, channel)
        grads, _ = _blocks(grad_y, channel)
        normalize.batch_norm_backward(
            grads, blocks, per_row, running_mean, running_var, weight, bias, training, eps, kind, alpha, statistics,
            y, grad_x, grad_weight, grad_bias, grad_residual,
        )  # fmt: skip
    gradients = grad_x, grad_weight, grad_bias
    return gradients if y is None else (*gradients, grad_residual)


def local_response_norm(
    x: Array,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Divide each value by a power of the energy of its neighbouring channels.

    ``y_c = x_c * s_c^-beta``, ``s_c = k + alpha / size * sum of x_j^2 over j = c - size // 2 .. c + (size - 1) // 2``
    (those of them that exist).

    Parameters
    ----------
    x : array (N, C, *spatial) or (N, *spatial, C) with one spatial axis or more, float32 or float64
    size : int >= 1
        Channels in the window.
    alpha : float, default 1e-4
    beta : float, default 0.75
    k : float, default 1.0
    data_format : "channels_first" or "channels_last", default "channels_first"
    out : array like x, default None

    Returns
    -------
    array
        y, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        x has fewer than 3 dimensions or is not float32 or float64, size < 1, or out does not fit.

    Source
    ------
    Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional Neural Networks (2012),
    section 3.3; the window and the division by size are PyTorch's.
    """
    channel = _check_lrn(x, size, alpha, beta, k, data_format)
    out = output_array(out, x.shape, x.dtype, x)
    if x.size:
        response_norm(None, contiguous(x), *_images(x, channel), size, alpha, beta, k, out)
    return out


def local_response_norm_backward(
    grad_y: Array,
    x: Array,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Gradient of `local_response_norm`.

    ``grad_x_c = grad_y_c * s_c^-beta - 2 * beta * alpha / size * x_c * sum of grad_y_j * x_j * s_j^(-beta-1)`` over the
    channels j whose window holds c.

    Parameters
    ----------
    grad_y : array like x
    x, size, alpha, beta, k, data_format
        As given to `local_response_norm`.
    out : array like x, default None

    Returns
    -------
    array
        grad_x, shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        As `local_response_norm`; also if grad_y differs from x in shape or dtype.
    """
    channel = _check_lrn(x, size, alpha, beta, k, data_format)
    check_gradient(grad_y, x.shape, "x", x=x)
    out = output_array(out, x.shape, x.dtype, grad_y, x)
    if x.size:
        response_norm(contiguous(grad_y), contiguous(x), *_images(x, channel), size, alpha, beta, k, out)
    return out


def dropout(
    x: Array,
    p: float = 0.5,
    training: bool = True,
    rng: np.random.Generator | None = None,
    *,
    out: Array | None = None,
) -> tuple[Array, Array | None]:
    """Zero each element with probability p and scale the others, so that the mean stays.

    ``y = x / (1 - p) where mask, else 0``; mask is drawn from rng, so that one seed gives one result.

    Parameters
    ----------
    x : array of any shape, float32 or float64
    p : float in 0 .. 1, default 0.5
    training : bool, default True
        Outside training y is x and mask is None.
    rng : numpy.random.Generator, default None
        None takes a fresh one with a seed of the operating system.
    out : array like x, default None

    Returns
    -------
    (y, mask)
        y has shape and dtype of x, mask is a bool array, True where x was kept.

    Raises
    ------
    TypeError
        x is not float32 or float64, or rng is not a Generator.
    ValueError
        p is not within 0 .. 1, or out does not fit.

    Source
    ------
    Srivastava et al.: Dropout: A Simple Way to Prevent Neural Networks from Overfitting (2014), section 10.
    """
    check_array(x, "x")
    _check_probability(p)
    as_bool(training, "training")
    out = output_array(out, x.shape, x.dtype, x)
    if not training:
        np.copyto(out, x)
        return out, None
    if rng is None:
        rng = np.random.default_rng()
    elif not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {type(rng).__name__}")
    # 24 random bits an element are plenty for a probability, and half the work of 53.
    mask = rng.random(x.shape, dtype=np.float32) >= p
    return _drop(x, mask, p, out), mask


def dropout_backward(grad_y: Array, mask: Array | None, p: float = 0.5, *, out: Array | None = None) -> Array:
    """Gradient of `dropout`.

    ``grad_x = grad_y / (1 - p) where mask, else 0``

    Parameters
    ----------
    grad_y : array of any shape, float32 or float64
    mask : bool array like grad_y, or None
        As `dropout` returned it; None is the identity.
    p : float in 0 .. 1, default 0.5
    out : array like grad_y, default None

    Returns
    -------
    array
        grad_x, shape and dtype of grad_y.

    Raises
    ------
    TypeError, ValueError
        p is not within 0 .. 1, or mask or out does not fit grad_y.
    """
    check_array(grad_y, "grad_y")
    _check_probability(p)
    if mask is not None:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"mask must be a bool array or None, got {getattr(mask, 'dtype', type(mask).__name__)}")
        check_like(mask, "mask", grad_y.shape, "grad_y")
    out = output_array(out, grad_y.shape, grad_y.dtype, grad_y, mask)
    if mask is None:
        np.copyto(out, grad_y)
        return out
    return _drop(grad_y, mask, p, out)


def _drop(x: Array, mask: Array, p: float, out: Array) -> Array:
    rowwise.masked(1 / (1 - p) if p < 1 else 0.0, contiguous(x), contiguous(mask), out)
    return out


def _check_probability(p: float) -> None:
    if not 0 <= as_float(p, "p") <= 1:
        raise ValueError(f"p must be a probability within 0 .. 1, got {p!r}")


def _check_batch(x: Array, data_format: str) -> int:
    """The channel axis of x."""
    channels_last = is_channels_last(data_format)
    check_array(x, "x")
    if x.ndim < 2 or 0 in x.shape[1:]:
        layout = "(N, ..., C)" if channels_last else "(N, C, ...)"
        raise ValueError(f"x must have shape {layout} with no size 0 but the batch's, got x.shape={x.shape}")
    return x.ndim - 1 if channels_last else 1


def _check_statistics(
    x: Array, channel: int, mean: Array | None, var: Array | None, training: bool, eps: float
) -> None:
    as_bool(training, "training")
    as_float(eps, "eps")
    if not training and (mean is None or var is None):
        raise ValueError("running_mean and running_var must be arrays outside training, got None")
    if training and x.size == x.shape[channel]:
        raise ValueError(f"x must have more than one value a channel in training, got x.shape={x.shape}")


def _as_statistics(statistics: Array, channels: int) -> Array:
    """Contiguous statistics, once they are known to be what `batch_norm` returns."""
    check_array(statistics, "statistics")
    if statistics.shape != (2, channels) or statistics.dtype != np.float64:
        got = f"statistics.shape={statistics.shape}, {statistics.dtype}"
        raise ValueError(f"statistics must have shape {(2, channels)} and dtype float64, got {got}")
    return contiguous(statistics)


def _check_lrn(x: Array, size: int, alpha: float, beta: float, k: float, data_format: str) -> int:
    """The channel axis of x."""
    channel = _check_batch(x, data_format)
    if x.ndim < 3:
        raise ValueError(f"x must have 3 dimensions or more, got x.shape={x.shape}")
    as_int(size, "size", 1)
    for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
        as_float(value, name)
    return channel


def _check_result(y: Any, x: Array, activation: str | None) -> None:
    """Raise unless y is an array like x that tells the activation's derivative."""
    check_array(y, "y")
    check_same_dtype(x=x, y=y)
    check_like(y, "y", x.shape, "x")
    if activation not in (None, *TOLD_BY_RESULT):
        told = ", ".join(TOLD_BY_RESULT)
        raise ValueError(f"activation must be None or one whose derivative y tells ({told}), got {activation=}")


def _blocks(x: Array, channel: int) -> tuple[Array, bool]:
    """x as [N][C][S] and True if values of a channel lie side by side, else as [M][C] and False."""
    x = contiguous(x)
    if channel == x.ndim - 1:
        return x.reshape(-1, x.shape[channel]), False
    return x.reshape(*x.shape[:2], -1), True


def _images(x: Array, channel: int) -> tuple[int, int, bool]:
    """How many images and channels there are, and whether channels lie last."""
    return x.shape[0], x.shape[channel], channel == x.ndim - 1
