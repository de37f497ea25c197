"""Keras 3 on fastconv: one line puts the convolutions and pools of Keras's NumPy backend on fastconv's kernels.

    import fastconv.backends.keras

    fastconv.backends.keras.enable()

`enable` puts the operators below in the place of those of Keras's module, where layers and `keras.ops` look them up at
every call. Each takes Keras's arguments and means what Keras means by them: kernels (*size, C_in / groups, C_out),
channels last by default, "same" that pads for a stride as TensorFlow does, float64 computed in float32, as JAX does. An
operator that returns None declines: what fastconv has no kernel for (float16, bfloat16, integers) and what is no valid
call at all go to Keras's own implementation, with its results and its errors.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastconv import functional
from fastconv.extras import require
from fastconv.functional import planned
from fastconv.functional.planned import PlansByShape
from fastconv.geometry import is_int

__all__ = ["disable", "enable"]

Array = NDArray[Any]
Sizes = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]
Operator = Callable[..., Any]


def enable(*, pack: bool = True) -> contextlib.ExitStack:
    """Let Keras's NumPy backend convolve and pool with fastconv, in the whole process.

    That is `conv`, `depthwise_conv`, `separable_conv`, `conv_transpose`, `max_pool` and `average_pool` of arrays of
    float32 or float64, in layers and in `keras.ops`; float64 becomes float32, as in Keras itself, unless JAX has its
    64 bits enabled: then it is left to Keras. Calling it again changes `pack` alone.

    Parameters
    ----------
    pack : bool, default True
        Keep the kernels of layers packed for the last four shapes of their input. The array behind a packed variable
        is read-only until `disable`, so that a write into it raises instead of going unseen; `assign`, `set_weights`,
        `load_weights` and optimizers put a new array there. False saves the memory and packs in every call.

    Returns
    -------
    contextlib.ExitStack
        For ``with enable(): ...``, which ends with `disable` unless it was enabled before.

    Raises
    ------
    MissingExtraError
        Keras, or JAX, which its NumPy backend imports, is not installed.
    RuntimeError
        Keras runs on another backend.
    """
    undo = contextlib.ExitStack()
    with _lock:
        if not _own:
            nn = _numpy_backend()
            _own.update({name: getattr(nn, name) for name in _operators})
            for name, operator in _operators.items():
                setattr(nn, name, operator)
            undo.callback(disable)
        if not pack:
            _packs.clear()
        _packs.wanted = pack
    return undo


def disable() -> None:
    """Give Keras its own operators back, drop all packed kernels, and let their arrays be written to again."""
    with _lock:
        if _own:
            nn = _numpy_backend()
            for name, operator in _own.items():
                setattr(nn, name, operator)
            _own.clear()
        _packs.clear()


def _numpy_backend() -> ModuleType:
    """The module whose functions Keras calls."""
    keras = _keras()
    backend = keras.config.backend()
    if backend != "numpy":
        raise RuntimeError(
            f"Keras must run on its NumPy backend, got {backend!r}; set the environment variable KERAS_BACKEND=numpy "
            "before Keras is imported"
        )
    return require("keras.src.backend.numpy.nn", extra="keras")


def _keras() -> ModuleType:
    try:
        return require("keras", extra="keras")
    except ModuleNotFoundError as error:
        if error.name == "jax":
            return require("jax", extra="keras")
        raise


class _Packs:
    """Kernels of Keras's variables, packed by shapes of x for as long as their arrays live."""

    def __init__(self) -> None:
        self.wanted = True
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[weakref.ref[Array], bool, dict[str, PlansByShape]]] = {}

    def plans(self, kernel: Array, operator: str) -> PlansByShape:
        """The plans of an operator with this very array as its kernel, which is made read-only."""
        kept = self._kept.get(id(kernel))
        if kept is None:
            kept = self._keep(kernel)
        plans = kept[2].get(operator)
        return plans or kept[2].setdefault(operator, PlansByShape(getattr(planned, f"plan_{operator}")))

    def _keep(self, kernel: Array) -> tuple[weakref.ref[Array], bool, dict[str, PlansByShape]]:
        number = id(kernel)
        with self._lock:
            writeable = kernel.flags.writeable
            kernel.flags.writeable = False
            alive = weakref.ref(kernel, lambda _: self._kept.pop(number, None))
            return self._kept.setdefault(number, (alive, writeable, {}))

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            kept = list(self._kept.values())
            self._kept.clear()
        for alive, writeable, _ in kept:
            kernel = alive()
            if kernel is not None:
                kernel.flags.writeable = writeable


_lock = threading.Lock()
_own: dict[str, Operator] = {}  # Keras's operators while ours stand in their places
_operators: dict[str, Operator] = {}
_packs = _Packs()


def _operator(function: Operator) -> Operator:
    """An operator to stand in Keras's place, with Keras's own for what the function declines."""

    @functools.wraps(function)
    def operator(*args: Any, **kwargs: Any) -> Any:
        y = function(*args, **kwargs)
        return _keras_own(function.__name__)(*args, **kwargs) if y is None else y

    _operators[function.__name__] = operator
    return operator


def _keras_own(name: str) -> Operator:
    own = _own.get(name)
    return own if own is not None else getattr(_numpy_backend(), name)  # disabled while another thread calls it


class _Input(NamedTuple):
    """An input that fastconv takes."""

    x: Array
    ndim: int
    channels: int
    size: Sizes
    data_format: str


def _input(inputs: Any, data_format: Any) -> _Input | None:
    x = _single(_array(inputs))
    if x is None or x.ndim not in (3, 4, 5) or 0 in x.shape[1:]:
        return None
    if data_format is None:
        data_format = _keras().config.image_data_format()
    if data_format == "channels_last":
        return _Input(x, x.ndim - 2, x.shape[-1], x.shape[1:-1], data_format)
    if data_format == "channels_first":
        return _Input(x, x.ndim - 2, x.shape[1], x.shape[2:], data_format)
    return None


def _array(value: Any) -> Array | None:
    """The array that an argument is or, for one of Keras's variables, holds."""
    if not isinstance(value, np.ndarray):
        value = getattr(value, "value", None)
    return value if isinstance(value, np.ndarray) else None


def _single(array: Array | None) -> Array | None:
    """The array in the float32 that Keras computes in, if it does."""
    if array is None or array.dtype == np.float32:
        return array
    if array.dtype != np.float64 or sys.modules["jax"].config.jax_enable_x64:
        return None
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _kernel(kernel: Any, source: _Input) -> Array | None:
    """The kernel as an array, if fastconv takes it together with this input."""
    array = _single(_array(kernel))
    return None if array is None or array.ndim != source.x.ndim or 0 in array.shape else array


def _stored(kernel: Any) -> Array | None:
    """The array that a variable stores, unless it now stands for another: a cast of it, or a stateless scope's."""
    stored = getattr(kernel, "_value", None)
    return stored if isinstance(stored, np.ndarray) and stored is kernel.value else None


def _per_axis(value: Any, ndim: int) -> Sizes | None:
    """A positive number an axis."""
    numbers = (value,) * ndim if is_int(value) else value
    if not isinstance(numbers, (tuple, list)) or len(numbers) != ndim or not all(map(is_int, numbers)):
        return None
    sizes = tuple(map(int, numbers))
    return sizes if min(sizes) >= 1 else None


def _reach(kernel: Sizes, dilation: Sizes) -> Sizes:
    """Positions from a window's first tap to its last."""
    return tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))


def _padding(padding: Any, size: Sizes, reach: Sizes, stride: Sizes) -> Pairs | None:
    """((before, after), ...) with which there are size / stride windows, rounded up ("same"), or the whole ones."""
    name = padding.lower() if isinstance(padding, str) else None
    if name == "valid" and all(r <= n for n, r in zip(size, reach, strict=True)):
        return ((0, 0),) * len(size)
    if name != "same":
        return None
    totals = [max((-(-n // s) - 1) * s + r - n, 0) for n, r, s in zip(size, reach, stride, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def _convolve(name: str, source: _Input, kernel: Any, weight: Array, **options: Any) -> Array:
    """One of fastconv's convolutions, with the weight packed beforehand if it is what a variable stores."""
    operator = f"{name}{source.ndim}d"
    options |= {"data_format": source.data_format, "activation": None, "algorithm": None}
    stored = _stored(kernel) if _packs.wanted else None
    if stored is not None:
        return _packs.plans(stored, operator)(source.x, weight, None, **options)
    y: Array = getattr(functional, operator)(source.x, weight, **options)
    return y


@_operator
def conv(
    inputs: Any, kernel: Any, strides: Any = 1, padding: Any = "valid", data_format: Any = None, dilation_rate: Any = 1
) -> Array | None:
    """Convolution; as many groups as the kernel's input channels go into those of the input."""
    source = _input(inputs, data_format)
    array = None if source is None else _kernel(kernel, source)
    if source is None or array is None or source.channels % array.shape[-2]:
        return None
    groups = source.channels // array.shape[-2]
    return _conv(source, kernel, array, groups, strides, padding, dilation_rate)


@_operator
def depthwise_conv(
    inputs: Any, kernel: Any, strides: Any = 1, padding: Any = "valid", data_format: Any = None, dilation_rate: Any = 1
) -> Array | None:
    """Convolution of each channel with kernels of its own, (*size, C, kernels of a channel)."""
    source = _input(inputs, data_format)
    array = None if source is None else _kernel(kernel, source)
    if source is None or array is None or array.shape[-2] != source.channels:
        return None
    array = array.reshape(*array.shape[:-2], 1, -1)
    return _conv(source, kernel, array, source.channels, strides, padding, dilation_rate)


def _conv(
    source: _Input, kernel: Any, array: Array, groups: int, strides: Any, padding: Any, dilation_rate: Any
) -> Array | None:
    """A convolution with `array`, (*size, C_in / groups, C_out), which is what `kernel` holds."""
    stride, dilation = _per_axis(strides, source.ndim), _per_axis(dilation_rate, source.ndim)
    if stride is None or dilation is None or array.shape[-1] % groups:
        return None
    pairs = _padding(padding, source.size, _reach(array.shape[:-2], dilation), stride)
    if pairs is None:
        return None
    return _convolve(
        "conv", source, kernel, _outputs_first(array), stride=stride, padding=pairs, dilation=dilation, groups=groups
    )


def _outputs_first(array: Array) -> Array:
    """(*size, inputs, outputs) as fastconv has weights, (outputs, inputs, *size)."""
    return np.moveaxis(array, (-1, -2), (0, 1))


@_operator
def separable_conv(
    inputs: Any, depthwise_kernel: Any, pointwise_kernel: Any, strides: Any = 1, padding: Any = "valid",
    data_format: Any = None, dilation_rate: Any = 1,
) -> Array | None:  # fmt: skip
    """Depthwise convolution, then one of single pixels; each is declined by itself."""
    y = depthwise_conv(inputs, depthwise_kernel, strides, padding, data_format, dilation_rate)
    z: Array = conv(y, pointwise_kernel, 1, "valid", data_format, dilation_rate)
    return z


@_operator
def conv_transpose(
    inputs: Any, kernel: Any, strides: Any = 1, padding: Any = "valid", output_padding: Any = None,
    data_format: Any = None, dilation_rate: Any = 1,
) -> Array | None:  # fmt: skip
    """Transposed convolution with a kernel (*size, C_out, C_in)."""
    source = _input(inputs, data_format)
    array = None if source is None else _kernel(kernel, source)
    if source is None or array is None or array.shape[-1] != source.channels:
        return None
    stride, dilation = _per_axis(strides, source.ndim), _per_axis(dilation_rate, source.ndim)
    if stride is None or dilation is None:
        return None
    cut = _transposed_cut(source.size, _reach(array.shape[:-2], dilation), stride, padding, output_padding)
    if cut is None or any(e >= max(s, d) for e, s, d in zip(cut.extra, stride, dilation, strict=True)):
        return None
    return _convolve(
        "conv_transpose", source, kernel, _outputs_first(array), stride=stride, padding=cut.padding,
        output_padding=cut.extra, groups=1, dilation=dilation,
    )  # fmt: skip


class _Cut(NamedTuple):
    """What is cut from the ends of a transposed convolution, and what is added at the end."""

    padding: Pairs
    extra: Sizes


def _transposed_cut(size: Sizes, reach: Sizes, stride: Sizes, padding: Any, output_padding: Any) -> _Cut | None:
    """The sizes that Keras gives a transposed convolution: the input's times the stride for "same", else all of it.

    With an output padding p, "same" has stride * (size - 1) + reach % 2 + p positions, of which no more than half, and
    one, come off the beginning.
    """
    name, ndim = padding.lower() if isinstance(padding, str) else None, len(size)
    wanted = (None,) * ndim if output_padding is None else (output_padding,) * ndim
    if isinstance(output_padding, (tuple, list)):
        wanted = tuple(output_padding)
    if name not in ("valid", "same") or len(wanted) != ndim or not all(p is None or is_int(p) for p in wanted):
        return None
    pairs, extra = [], []
    for n, r, s, p in zip(size, reach, stride, wanted, strict=True):
        if name == "valid":
            before, more = 0, max(s - r, 0) if p is None else int(p)
        else:
            pads = s + r - 2 if p is None else r + r % 2 - 2 + int(p)  # of the stuffed input; 2 (r - 1) would keep all
            before = max(r - 1 - (pads + 1) // 2, 0)
            more = pads + before - 2 * (r - 1)
        if (p is not None and p < 0) or s * (n - 1) + r - before + more < 1:
            return None
        pairs.append((before, max(-more, 0)))
        extra.append(max(more, 0))
    return _Cut(tuple(pairs), tuple(extra))


@_operator
def max_pool(
    inputs: Any, pool_size: Any, strides: Any = None, padding: Any = "valid", data_format: Any = None
) -> Array | None:
    """The largest of each window; padding never wins."""
    return _pool("max_pool", inputs, pool_size, strides, padding, data_format)


@_operator
def average_pool(
    inputs: Any, pool_size: Any, strides: Any = None, padding: Any = "valid", data_format: Any = None
) -> Array | None:
    """The mean of what lies inside the input of each window."""
    return _pool("avg_pool", inputs, pool_size, strides, padding, data_format, count_include_pad=False)


def _pool(
    name: str, inputs: Any, pool_size: Any, strides: Any, padding: Any, data_format: Any, **options: Any
) -> Array | None:
    source = _input(inputs, data_format)
    if source is None:
        return None
    window = _per_axis(pool_size, source.ndim)
    stride = window if strides is None else _per_axis(strides, source.ndim)
    pairs = None if window is None or stride is None else _padding(padding, source.size, window, stride)
    if pairs is None:
        return None
    operator = getattr(functional, f"{name}{source.ndim}d")
    y: Array = operator(source.x, window, stride, pairs, data_format=source.data_format, **options)
    return y
