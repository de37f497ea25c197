"""What every family shares: layouts, numbers an axis, and the windows that a kernel meets."""

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


def ranks(operator: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """The operator in 1, 2 and 3 spatial dimensions."""
    return tuple(partial(operator, ndim) for ndim in (1, 2, 3))


class Layout:
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


def each(value: Any, ndim: int) -> tuple[Any, ...]:
    """One value an axis, from a number, a 1-tuple or a tuple of ndim."""
    values = tuple(value) if isinstance(value, Iterable) else (value,)
    return values * ndim if len(values) == 1 else values


def as_pairs(padding: Any, kernel: Size, stride: Size, dilation: Size) -> Pairs:
    """Any form of padding as ((before, after), ...); "same" pads an odd total once more at the end."""
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ValueError(f"padding='same' needs stride 1, got stride={stride}")
        return tuple((d * (k - 1) // 2, d * (k - 1) - d * (k - 1) // 2) for k, d in zip(kernel, dilation, strict=True))
    values = each(0 if padding == "valid" else padding, len(kernel))
    return tuple((p[0], p[1]) if isinstance(p, Sequence) else (p, p) for p in values)


def taps(kernel: Size, out: Size, stride: Size, dilation: Size) -> Iterator[tuple[Any, Any]]:
    """Every kernel tap t, and the part of the padded input that it meets: o * stride + t * dilation, all o."""
    for tap in np.ndindex(*kernel):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        ends = [b + s * (o - 1) + 1 for b, s, o in zip(starts, stride, out, strict=True)]
        yield (..., *tap), (..., *map(slice, starts, ends, stride))


def pool_window(size: Size, kernel: Size, stride: Size, pads: Pairs, dilation: Size, ceil: bool) -> tuple[Size, Pairs]:
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
