"""The oracle: every operator of ``fastconv.functional`` and every gradient, in plain NumPy.

It is written to be believed, not to be fast: names, argument order, defaults and results are those of
``fastconv.functional``, the formula stands in the docstring, and the body is that formula. Arguments are
not validated (``fastconv.geometry`` does), and everything is computed in the dtype of the arrays: pass
float64 to judge a float32 kernel. Only tests and benchmarks import this module.

How to read it
    Every family has one n-dimensional implementation whose first argument ``ndim`` is the number of spatial
    axes; ``conv1d``, ``conv2d`` and ``conv3d`` are that function with ``ndim`` given. Inside, an activation
    is always ``(N, C, *spatial)``: `_Layout` adds a missing batch axis and moves the channels of
    ``channels_last`` on entry, and undoes both on exit. Loops run over the taps of the kernel (`_taps`)
    or over the bins of an adaptive pool (`_bins`), never over pixels. A gradient is the adjoint of the same
    loop: where forward reads, backward adds.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Size = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]
Gradients = tuple[Array | None, ...]

FIRST = "channels_first"


def _ranks(operator: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """The operator in 1, 2 and 3 spatial dimensions."""
    return tuple(partial(operator, ndim) for ndim in (1, 2, 3))


class _Layout:
    """Brings activations of either layout, batched or not, to (N, C, *spatial), and results back."""

    def __init__(self, x: Array, ndim: int, data_format: str) -> None:
        self.batched = x.ndim == ndim + 2
        self.last = data_format == "channels_last"

    def enter(self, a: Array) -> Array:
        a = a if self.batched else a[None]
        return np.moveaxis(a, -1, 1) if self.last else a

    def leave(self, a: Array) -> Array:
        a = np.moveaxis(a, 1, -1) if self.last else a
        return a if self.batched else a[0]

    def enter_shape(self, shape: Iterable[int]) -> Size:
        return self.enter(np.broadcast_to(0.0, tuple(shape))).shape


def _each(value: Any, ndim: int) -> tuple[Any, ...]:
    """One value an axis, from a number, a 1-tuple or a tuple of ndim."""
    values = tuple(value) if isinstance(value, Iterable) else (value,)
    return values * ndim if len(values) == 1 else values


def _pairs(padding: Any, kernel: Size, stride: Size, dilation: Size) -> Pairs:
    """Any form of padding as ((before, after), ...); "same" pads an odd total once more at the end."""
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ValueError(f"padding='same' needs stride 1, got stride={stride}")
        return tuple((d * (k - 1) // 2, d * (k - 1) - d * (k - 1) // 2) for k, d in zip(kernel, dilation, strict=True))
    values = _each(0 if padding == "valid" else padding, len(kernel))
    return tuple((p[0], p[1]) if isinstance(p, Sequence) else (p, p) for p in values)


def _taps(kernel: Size, out: Size, stride: Size, dilation: Size) -> Iterator[tuple[Any, Any]]:
    """Every kernel tap t, and the part of the padded input that it meets: o * stride + t * dilation, all o."""
    for tap in np.ndindex(*kernel):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        ends = [b + s * (o - 1) + 1 for b, s, o in zip(starts, stride, out, strict=True)]
        yield (..., *tap), (..., *map(slice, starts, ends, stride))


def _activate(y: Array, activation: str | None) -> Array:
    functions = {"relu": relu, "leaky_relu": leaky_relu, "elu": elu, "sigmoid": sigmoid, "tanh": tanh}
    return y if activation is None else functions[activation](y)


# --- padding ---------------------------------------------------------------------------------------------------------

_NUMPY_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad(x: Array, pads: Pairs, mode: str = "zeros", value: float = 0.0) -> Array:
    """Pad the last len(pads) axes."""
    widths = ((0, 0),) * (x.ndim - len(pads)) + pads
    constant = {"constant_values": value} if mode == "zeros" else {}
    return np.pad(x, widths, mode=_NUMPY_MODE[mode], **constant)  # type: ignore[call-overload, no-any-return]


def _pad_adjoint(grad_y: Array, pads: Pairs, mode: str = "zeros") -> Array:
    """Every padded element gives its gradient to the element it was copied from, or to none."""
    for axis, pair in enumerate(pads, start=grad_y.ndim - len(pads)):
        length = grad_y.shape[axis] - sum(pair)
        source = _pad(np.arange(length), (pair,), mode, value=length)
        grad_x = np.zeros((length + 1, *np.moveaxis(grad_y, axis, 0).shape[1:]), grad_y.dtype)  # last row: zeros' share
        np.add.at(grad_x, source, np.moveaxis(grad_y, axis, 0))
        grad_y = np.moveaxis(grad_x[:-1], 0, axis)
    return grad_y


def pad(x: Array, pads: Any, mode: str = "zeros", *, data_format: str = FIRST) -> Array:
    """Pad the spatial axes by ((before, after), ...); mode is zeros, reflect, replicate or circular."""
    layout = _Layout(x, len(pads), data_format)
    return layout.leave(_pad(layout.enter(x), tuple(pads), mode))


def pad_backward(grad_y: Array, pads: Any, mode: str = "zeros", *, data_format: str = FIRST) -> Array:
    """Gradient of `pad` by x."""
    layout = _Layout(grad_y, len(pads), data_format)
    return layout.leave(_pad_adjoint(layout.enter(grad_y), tuple(pads), mode))


# --- convolution: one trilinear form sum(y * correlate(x, w)), and the three ways to leave one factor out --------------


def _split(a: Array, groups: int) -> Array:
    """(N, C, *spatial) -> (N, groups, C / groups, *spatial)."""
    return a.reshape(a.shape[0], groups, a.shape[1] // groups, *a.shape[2:])


def _merge(a: Array) -> Array:
    """(N, groups, C / groups, *spatial) -> (N, C, *spatial)."""
    return a.reshape(a.shape[0], a.shape[1] * a.shape[2], *a.shape[3:])


def _columns(a: Array) -> Array:
    """(N, groups, C, *spatial) -> (N, groups, C, pixels)."""
    return a.reshape(*a.shape[:3], math.prod(a.shape[3:]))


def _split_weight(weight: Array, groups: int, flip: bool = False) -> Array:
    """(groups * F, C, *kernel) -> (groups, F, C, *kernel); flipped along the kernel axes if asked."""
    weight = np.flip(weight, tuple(range(2, weight.ndim))) if flip else weight
    return weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])


def _correlate(x: Array, w: Array, out: Size, stride: Size, dilation: Size) -> Array:
    """y[n,g,f,o] = sum over c, t of w[g,f,c,t] x[n,g,c,o * stride + t * dilation]."""
    y = np.zeros((*x.shape[:2], w.shape[1], *out), np.result_type(x, w))
    for tap, at in _taps(w.shape[3:], out, stride, dilation):
        y += (w[tap] @ _columns(x[at])).reshape(y.shape)
    return y


def _correlate_adjoint_x(y: Array, w: Array, size: Size, stride: Size, dilation: Size) -> Array:
    """x[n,g,c,i] = sum over f, t, o with i = o * stride + t * dilation of w[g,f,c,t] y[n,g,f,o]."""
    x = np.zeros((*y.shape[:2], w.shape[2], *size), np.result_type(y, w))
    for tap, at in _taps(w.shape[3:], y.shape[3:], stride, dilation):
        x[at] += (w[tap].swapaxes(1, 2) @ _columns(y)).reshape(x[at].shape)
    return x


def _correlate_adjoint_w(y: Array, x: Array, kernel: Size, stride: Size, dilation: Size) -> Array:
    """w[g,f,c,t] = sum over n, o of y[n,g,f,o] x[n,g,c,o * stride + t * dilation]."""
    w = np.zeros((*y.shape[1:3], x.shape[2], *kernel), np.result_type(y, x))
    for tap, at in _taps(kernel, y.shape[3:], stride, dilation):
        w[tap] = (_columns(y) @ _columns(x[at]).swapaxes(2, 3)).sum(0)
    return w


def _add_bias(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias.reshape(-1, *(1,) * (y.ndim - 2))


def _grad_bias(grad_y: Array) -> Array:
    return grad_y.sum((0, *range(2, grad_y.ndim)))


def _conv(
    ndim: int, x: Array, weight: Array, bias: Array | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, padding_mode: str = "zeros", flip_kernel: bool = False,
    activation: str | None = None, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """y[n,f,o] = activation(bias[f] + sum over c, t of weight[f,c,t] pad(x)[n,c,o * stride + t * dilation])."""
    layout, kernel = _Layout(x, ndim, data_format), weight.shape[2:]
    stride, dilation = _each(stride, ndim), _each(dilation, ndim)
    padded = _pad(layout.enter(x), _pairs(padding, kernel, stride, dilation), padding_mode)
    out = tuple((i - d * (k - 1) - 1) // s + 1
                for i, k, s, d in zip(padded.shape[2:], kernel, stride, dilation, strict=True))  # fmt: skip
    y = _correlate(_split(padded, groups), _split_weight(weight, groups, flip_kernel), out, stride, dilation)
    return layout.leave(_activate(_add_bias(_merge(y), bias), activation))


def _conv_backward(
    ndim: int, grad_y: Array, x: Array, weight: Array, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, need: tuple[bool, bool, bool] = (True, True, True), padding_mode: str = "zeros",
    flip_kernel: bool = False, data_format: str = FIRST,
) -> Gradients:  # fmt: skip
    """Gradients of `_conv` (without activation) by x, weight and bias."""
    layout, kernel = _Layout(x, ndim, data_format), weight.shape[2:]
    stride, dilation = _each(stride, ndim), _each(dilation, ndim)
    pads = _pairs(padding, kernel, stride, dilation)
    padded, grad_y = _pad(layout.enter(x), pads, padding_mode), layout.enter(grad_y)
    grad_x = grad_weight = None
    if need[0]:
        w = _split_weight(weight, groups, flip_kernel)
        grad_padded = _correlate_adjoint_x(_split(grad_y, groups), w, padded.shape[2:], stride, dilation)
        grad_x = layout.leave(_pad_adjoint(_merge(grad_padded), pads, padding_mode))
    if need[1]:
        grad_weight = _correlate_adjoint_w(_split(grad_y, groups), _split(padded, groups), kernel, stride, dilation)
        grad_weight = _split_weight(grad_weight.reshape(weight.shape), 1, flip_kernel)[0]
    return grad_x, grad_weight, _grad_bias(grad_y) if need[2] else None


conv1d, conv2d, conv3d = _ranks(_conv)
conv1d_backward, conv2d_backward, conv3d_backward = _ranks(_conv_backward)


def _conv_transpose(
    ndim: int, x: Array, weight: Array, bias: Array | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1, *, activation: str | None = None,
    data_format: str = FIRST,
) -> Array:  # fmt: skip
    """y = activation(bias + the adjoint of `_conv` applied to x), output_padding longer at the end."""
    layout, kernel = _Layout(x, ndim, data_format), weight.shape[2:]
    stride, dilation, extra = _each(stride, ndim), _each(dilation, ndim), _each(output_padding, ndim)
    x = layout.enter(x)
    full = tuple((i - 1) * s + d * (k - 1) + 1 + e
                 for i, k, s, d, e in zip(x.shape[2:], kernel, stride, dilation, extra, strict=True))  # fmt: skip
    y = _merge(_correlate_adjoint_x(_split(x, groups), _split_weight(weight, groups), full, stride, dilation))
    y = _pad_adjoint(y, _pairs(padding, kernel, stride, dilation))
    return layout.leave(_activate(_add_bias(y, bias), activation))


def _conv_transpose_backward(
    ndim: int, grad_y: Array, x: Array, weight: Array, *, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1, need: tuple[bool, bool, bool] = (True, True, True), data_format: str = FIRST,
) -> Gradients:  # fmt: skip
    """Gradients of `_conv_transpose` by x, weight and bias; output_padding is implied by grad_y's size."""
    layout, kernel = _Layout(x, ndim, data_format), weight.shape[2:]
    stride, dilation = _each(stride, ndim), _each(dilation, ndim)
    x, grad_y = layout.enter(x), layout.enter(grad_y)
    padded = _split(_pad(grad_y, _pairs(padding, kernel, stride, dilation)), groups)
    grad_x = grad_weight = None
    if need[0]:
        grad_x = layout.leave(_merge(_correlate(padded, _split_weight(weight, groups), x.shape[2:], stride, dilation)))
    if need[1]:
        grad_weight = _correlate_adjoint_w(_split(x, groups), padded, kernel, stride, dilation).reshape(weight.shape)
    return grad_x, grad_weight, _grad_bias(grad_y) if need[2] else None


conv_transpose1d, conv_transpose2d, conv_transpose3d = _ranks(_conv_transpose)
conv_transpose1d_backward, conv_transpose2d_backward, conv_transpose3d_backward = _ranks(_conv_transpose_backward)


# --- pooling ---------------------------------------------------------------------------------------------------------


def _pool_window(size: Size, kernel: Size, stride: Size, pads: Pairs, dilation: Size, ceil: bool) -> tuple[Size, Pairs]:
    """The output size, and the padding that makes room for every window, overhang of ceil_mode included.

    out = floor or ceil of (L + pads - dilation * (k - 1) - 1) / stride, plus 1; with ceil the last window is
    dropped if it would start in the padding after the input.
    """
    out, room = [], []
    for i, k, s, (before, after), d in zip(size, kernel, stride, pads, dilation, strict=True):
        span = d * (k - 1) + 1
        free = i + before + after - span
        o = (-(-free // s) if ceil else free // s) + 1
        o -= ceil and (o - 1) * s >= i + before
        out.append(o)
        room.append((before, max(after, (o - 1) * s + span - i - before)))
    return tuple(out), tuple(room)


def _planes(size: Size) -> Array:
    """The flat index of every element of a plane."""
    return np.arange(math.prod(size)).reshape(size)


def _plane_index(a: Array) -> tuple[Array, Array, Array]:
    """Flat plane indices a[N, C, *out], as an index into (N, C, pixels)."""
    n, c = np.ogrid[: a.shape[0], : a.shape[1]]
    return n[..., None], c[..., None], a.reshape(*a.shape[:2], math.prod(a.shape[2:]))


def _scatter_planes(values: Array, indices: Array, shape: Size) -> Array:
    """Zeros of shape (N, C, *spatial), with values added at flat plane indices; index -1 is nowhere."""
    planes = np.zeros((*shape[:2], math.prod(shape[2:]) + 1), values.dtype)
    at = _plane_index(indices)
    np.add.at(planes, at, values.reshape(at[2].shape))
    return planes[..., :-1].reshape(shape)


def _max_pool(
    ndim: int, x: Array, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False, *, data_format: str = FIRST,
) -> Any:  # fmt: skip
    """y[n,c,o] = the largest x[n,c,o * stride + t * dilation - padding] over taps t, and its flat plane index.

    The first of equal elements wins, the last NaN wins over all. Padding never wins: a window of nothing else
    (possible with dilation alone) gives -inf and index -1.
    """
    layout, kernel = _Layout(x, ndim, data_format), _each(kernel_size, ndim)
    stride, dilation = _each(kernel if stride is None else stride, ndim), _each(dilation, ndim)
    x = layout.enter(x)
    pads = _pairs(padding, kernel, stride, dilation)
    out, room = _pool_window(x.shape[2:], kernel, stride, pads, dilation, ceil_mode)
    padded, places = _pad(x, room, value=-np.inf), _pad(_planes(x.shape[2:]), room, value=-1)
    y = np.full((*x.shape[:2], *out), -np.inf, x.dtype)
    indices = np.full(y.shape, -1)
    for _, at in _taps(kernel, out, stride, dilation):
        value, place = padded[at], places[at]
        wins = (place >= 0) & ((value > y) | np.isnan(value) | (indices < 0))
        y, indices = np.where(wins, value, y), np.where(wins, place, indices)
    return (layout.leave(y), layout.leave(indices)) if return_indices else layout.leave(y)


def _max_pool_backward(
    ndim: int, grad_y: Array, x: Array, indices: Array | None, kernel_size: Any, stride: Any = None, padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False, *, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """Gradient of `_max_pool` by x: every output gives its gradient to the element that won."""
    layout = _Layout(x, ndim, data_format)
    if indices is None:
        _, indices = _max_pool(
            ndim, x, kernel_size, stride, padding, dilation, ceil_mode, True, data_format=data_format
        )
    shape = layout.enter(x).shape
    return layout.leave(_scatter_planes(layout.enter(grad_y), layout.enter(indices), shape))


def _max_unpool(
    ndim: int, x: Array, indices: Array, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None, *, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """Zeros of output_size, default (L - 1) * stride - 2 * padding + kernel, with x put at flat plane indices."""
    layout, kernel = _Layout(x, ndim, data_format), _each(kernel_size, ndim)
    x, indices = layout.enter(x), layout.enter(indices)
    default = tuple((i - 1) * s - 2 * p + k for i, k, s, p in zip(
        x.shape[2:], kernel, _each(kernel if stride is None else stride, ndim), _each(padding, ndim), strict=True))  # fmt: skip
    size = default if output_size is None else tuple(output_size)
    if indices.size and not 0 <= indices.min() <= indices.max() < math.prod(size):
        raise ValueError(f"indices must lie in a plane of {size}, got {indices.min()} .. {indices.max()}")
    planes = np.zeros((*x.shape[:2], math.prod(size)), x.dtype)
    at = _plane_index(indices)
    planes[at] = x.reshape(at[2].shape)
    return layout.leave(planes.reshape(*x.shape[:2], *size))


def _max_unpool_backward(
    ndim: int, grad_y: Array, indices: Array, kernel_size: Any = None, stride: Any = None, padding: Any = 0,
    output_size: Any = None, *, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """Gradient of `_max_unpool` by x: grad_y read at the indices (the sizes are implied by grad_y's)."""
    layout = _Layout(grad_y, ndim, data_format)
    grad_y, indices = layout.enter(grad_y), layout.enter(indices)
    planes = grad_y.reshape(*grad_y.shape[:2], math.prod(grad_y.shape[2:]))
    return layout.leave(planes[_plane_index(indices)].reshape(indices.shape))


max_pool1d, max_pool2d, max_pool3d = _ranks(_max_pool)
max_pool1d_backward, max_pool2d_backward, max_pool3d_backward = _ranks(_max_pool_backward)
max_unpool1d, max_unpool2d, max_unpool3d = _ranks(_max_unpool)
max_unpool1d_backward, max_unpool2d_backward, max_unpool3d_backward = _ranks(_max_unpool_backward)


class _MeanWindows:
    """sum(x) over a window / divisor, and its adjoint, for x of shape (N, C, *size)."""

    def __init__(self, size: Size, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool,
                 count_include_pad: bool = True, divisor_override: int | None = None) -> None:  # fmt: skip
        ndim = len(size)
        self.kernel, self.ones = _each(kernel_size, ndim), (1,) * ndim
        self.stride = _each(self.kernel if stride is None else stride, ndim)
        pads = _pairs(padding, self.kernel, self.stride, self.ones)
        self.out, self.room = _pool_window(size, self.kernel, self.stride, pads, self.ones, ceil_mode)
        # What counts is what lies in the input, and in its padding if asked, but never in ceil_mode's overhang.
        overhang = tuple((0, r[1] - p[1]) for r, p in zip(self.room, pads, strict=True))
        counted = _pad(np.ones(size), pads, value=float(count_include_pad))
        self.divisor = divisor_override or self.sum(_pad(counted, overhang))

    def sum(self, padded: Array) -> Any:
        return sum(padded[at] for _, at in _taps(self.kernel, self.out, self.stride, self.ones))

    def mean(self, x: Array) -> Array:
        return np.asarray(self.sum(_pad(x, self.room)) / self.divisor, x.dtype)

    def mean_adjoint(self, grad_y: Array, size: Size) -> Array:
        room = tuple(i + b + a for i, (b, a) in zip(size, self.room, strict=True))
        padded = np.zeros((*grad_y.shape[:2], *room), grad_y.dtype)
        for _, at in _taps(self.kernel, self.out, self.stride, self.ones):
            padded[at] += grad_y / self.divisor
        return _pad_adjoint(padded, self.room)


def _avg_pool(
    ndim: int, x: Array, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None, *, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """y[n,c,o] = sum of the window / (divisor_override, or the number of its elements that count)."""
    layout = _Layout(x, ndim, data_format)
    x = layout.enter(x)
    windows = _MeanWindows(x.shape[2:], kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return layout.leave(windows.mean(x))


def _avg_pool_backward(
    ndim: int, grad_y: Array, x_shape: Iterable[int], kernel_size: Any, stride: Any = None, padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None, *,
    data_format: str = FIRST,
) -> Array:  # fmt: skip
    """Gradient of `_avg_pool` by x."""
    layout = _Layout(grad_y, ndim, data_format)
    size = layout.enter_shape(x_shape)[2:]
    windows = _MeanWindows(size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return layout.leave(windows.mean_adjoint(layout.enter(grad_y), size))


def _lp_pool(
    ndim: int, x: Array, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False, *,
    data_format: str = FIRST,
) -> Array:  # fmt: skip
    """y = (K * mean of the window's x ** p) ** (1 / p), K the elements of a whole window; no absolute value."""
    layout = _Layout(x, ndim, data_format)
    x = layout.enter(x)
    windows = _MeanWindows(x.shape[2:], kernel_size, stride, 0, ceil_mode)
    return layout.leave((windows.mean(x**norm_type) * math.prod(windows.kernel)) ** (1 / norm_type))


def _lp_pool_backward(
    ndim: int, grad_y: Array, x: Array, norm_type: float, kernel_size: Any, stride: Any = None,
    ceil_mode: bool = False, *, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """Gradient of `_lp_pool` by x: x ** (p - 1) * adjoint of the scaled mean (grad_y * s ** (1 / p - 1)); 0 where s = 0."""
    layout = _Layout(x, ndim, data_format)
    x, grad_y = layout.enter(x), layout.enter(grad_y)
    windows = _MeanWindows(x.shape[2:], kernel_size, stride, 0, ceil_mode)
    whole = math.prod(windows.kernel)
    s = windows.mean(x**norm_type) * whole
    slope = np.where(s == 0, 0, np.where(s == 0, 1, s) ** (1 / norm_type - 1))
    return layout.leave(x ** (norm_type - 1) * windows.mean_adjoint(grad_y * slope * whole, x.shape[2:]))


avg_pool1d, avg_pool2d, avg_pool3d = _ranks(_avg_pool)
avg_pool1d_backward, avg_pool2d_backward, avg_pool3d_backward = _ranks(_avg_pool_backward)
lp_pool1d, lp_pool2d, lp_pool3d = _ranks(_lp_pool)
lp_pool1d_backward, lp_pool2d_backward, lp_pool3d_backward = _ranks(_lp_pool_backward)


def _bins(size: Size, output_size: Any) -> tuple[Size, list[tuple[Any, Any]]]:
    """The output size, and every output with its window floor(i L / o) .. ceil((i + 1) L / o)."""
    out = tuple(i if o is None else o for o, i in zip(_each(output_size, len(size)), size, strict=True))
    windows = [[slice(j * i // o, -(-(j + 1) * i // o)) for j in range(o)] for i, o in zip(size, out, strict=True)]
    return out, [((..., *at), (..., *(w[j] for w, j in zip(windows, at, strict=True)))) for at in np.ndindex(*out)]


def _adaptive_avg_pool(ndim: int, x: Array, output_size: Any, *, data_format: str = FIRST) -> Array:
    """y[n,c,o] = mean of x[n,c] over bin o."""
    layout = _Layout(x, ndim, data_format)
    x = layout.enter(x)
    out, bins = _bins(x.shape[2:], output_size)
    y = np.empty((*x.shape[:2], *out), x.dtype)
    for at, window in bins:
        y[at] = x[window].mean(tuple(range(2, x.ndim)))
    return layout.leave(y)


def _adaptive_avg_pool_backward(
    ndim: int, grad_y: Array, x_shape: Iterable[int], output_size: Any, *, data_format: str = FIRST
) -> Array:
    """Gradient of `_adaptive_avg_pool` by x."""
    layout = _Layout(grad_y, ndim, data_format)
    grad_y, grad_x = layout.enter(grad_y), np.zeros(layout.enter_shape(x_shape), grad_y.dtype)
    for at, window in _bins(grad_x.shape[2:], output_size)[1]:
        share = grad_y[at] / math.prod(grad_x[window].shape[2:])
        grad_x[window] += share.reshape(*share.shape, *(1,) * ndim)
    return layout.leave(grad_x)


def _adaptive_max_pool(
    ndim: int, x: Array, output_size: Any, return_indices: bool = False, *, data_format: str = FIRST
) -> Any:
    """y[n,c,o] = largest x[n,c] in bin o (first of equals, else the last NaN), and its flat plane index."""
    layout = _Layout(x, ndim, data_format)
    x = layout.enter(x)
    out, bins = _bins(x.shape[2:], output_size)
    places = _planes(x.shape[2:])
    indices = np.empty((*x.shape[:2], *out), places.dtype)
    for at, window in bins:
        values = x[window].reshape(*x.shape[:2], places[window].size)
        nan = np.isnan(values)
        last_nan = nan.shape[-1] - 1 - nan[..., ::-1].argmax(-1)
        indices[at] = places[window].ravel()[np.where(nan.any(-1), last_nan, values.argmax(-1))]
    y = x.reshape(*x.shape[:2], places.size)[_plane_index(indices)].reshape(indices.shape)
    return (layout.leave(y), layout.leave(indices)) if return_indices else layout.leave(y)


def _adaptive_max_pool_backward(
    ndim: int, grad_y: Array, x: Array, indices: Array | None, output_size: Any, *, data_format: str = FIRST
) -> Array:
    """Gradient of `_adaptive_max_pool` by x."""
    layout = _Layout(x, ndim, data_format)
    if indices is None:
        _, indices = _adaptive_max_pool(ndim, x, output_size, True, data_format=data_format)
    shape = layout.enter(x).shape
    return layout.leave(_scatter_planes(layout.enter(grad_y), layout.enter(indices), shape))


adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = _ranks(_adaptive_avg_pool)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = _ranks(_adaptive_max_pool)
adaptive_avg_pool1d_backward, adaptive_avg_pool2d_backward, adaptive_avg_pool3d_backward = _ranks(
    _adaptive_avg_pool_backward
)
adaptive_max_pool1d_backward, adaptive_max_pool2d_backward, adaptive_max_pool3d_backward = _ranks(
    _adaptive_max_pool_backward
)


# --- activations -----------------------------------------------------------------------------------------------------


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0)


def relu_backward(grad_y: Array, y: Array) -> Array:
    """Gradient of `relu` by x, from its result (or from x)."""
    return np.where(y <= 0, 0, grad_y)


def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """x where x > 0, else negative_slope * x."""
    return np.where(x > 0, x, negative_slope * x)


def leaky_relu_backward(grad_y: Array, x: Array, negative_slope: float = 0.01) -> Array:
    """Gradient of `leaky_relu` by x."""
    return np.where(x > 0, grad_y, negative_slope * grad_y)


def elu(x: Array, alpha: float = 1.0) -> Array:
    """x where x > 0, else alpha * (exp(x) - 1)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_backward(grad_y: Array, x: Array, alpha: float = 1.0) -> Array:
    """Gradient of `elu` by x."""
    return np.where(x > 0, grad_y, grad_y * alpha * np.exp(np.minimum(x, 0)))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), by exp(-|x|), which cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def sigmoid_backward(grad_y: Array, y: Array) -> Array:
    """Gradient of `sigmoid` by x, from its result."""
    return grad_y * y * (1 - y)


def tanh(x: Array) -> Array:
    """The hyperbolic tangent."""
    return np.tanh(x)


def tanh_backward(grad_y: Array, y: Array) -> Array:
    """Gradient of `tanh` by x, from its result."""
    return grad_y * (1 - y * y)


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) / sum(exp(x)) along the axis; the largest x is subtracted first, so that nothing overflows."""
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def softmax_backward(grad_y: Array, y: Array, axis: int = -1) -> Array:
    """Gradient of `softmax` by x, from its result."""
    return y * (grad_y - (grad_y * y).sum(axis, keepdims=True))


def log_softmax(x: Array, axis: int = -1) -> Array:
    """log(softmax(x)), without taking the logarithm of a rounded 0."""
    shifted = x - x.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def log_softmax_backward(grad_y: Array, y: Array, axis: int = -1) -> Array:
    """Gradient of `log_softmax` by x, from its result."""
    return grad_y - np.exp(y) * grad_y.sum(axis, keepdims=True)
