"""What every output of a pool sees along an axis, as the pooling kernels read it, and what every input is seen by.

The kernels pool over three axes. `leading_axes` fills up with trivial ones, and joins axes that a global pool sees as a
whole into one long one, whose single window is contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastconv.geometry import AdaptivePoolGeometry, PoolGeometry

Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class AxisWindows:
    """Output o sees the `count[o]` inputs first[o], first[o] + step, ..., padding left out.

    `stride`, `before` and `taps` describe windows that are alike but for their place (see src/isa/table.h); stride 0
    says that they are not. `scale[o]` is how many positions of the axis a mean divides by.
    """

    size: int
    first: Positions
    count: Positions
    step: int
    stride: int
    before: int
    taps: int
    scale: NDArray[np.float64]

    @property
    def out(self) -> int:
        """Number of outputs."""
        return len(self.first)

    @property
    def whole(self) -> bool:
        """Whether one output sees the whole axis."""
        return self.out == 1 and int(self.count[0]) == self.size and (self.step == 1 or self.size == 1)

    @property
    def apart(self) -> bool:
        """Whether no input is seen twice, and outputs follow their inputs."""
        return bool((self.first[1:] > (self.first + (self.count - 1) * self.step)[:-1]).all())

    @property
    def cover(self) -> bool:
        """Whether every input is seen once."""
        return self.apart and self.step == 1 and int(self.count.sum()) == self.size


def pool_windows(geometry: PoolGeometry, count_include_pad: bool = True) -> tuple[AxisWindows, ...]:
    """The windows of each axis. A mean divides by the inputs it sees, and by the padding if `count_include_pad`."""
    g = geometry
    axes = zip(g.in_size, g.out_size, g.kernel, g.stride, g.padding, g.dilation, strict=True)
    return tuple(_sliding(i, o, k, s, p, d, count_include_pad) for i, o, k, s, p, d in axes)


def _sliding(
    size: int, out: int, taps: int, stride: int, padding: tuple[int, int], step: int, count_include_pad: bool
) -> AxisWindows:
    start = np.arange(out, dtype=np.int64) * stride - padding[0]
    low = np.maximum(0, -(start // step))
    high = np.minimum(taps, (size - 1 - start) // step + 1)
    count = np.maximum(0, high - low)
    first = np.where(count > 0, start + low * step, 0)
    counted = np.minimum(start + taps, size + padding[1]) - start if count_include_pad else count
    return AxisWindows(size, first, count, step, stride, padding[0], taps, counted.astype(np.float64))


def adaptive_windows(geometry: AdaptivePoolGeometry) -> tuple[AxisWindows, ...]:
    """The windows of each axis, all of their sizes."""
    if plain := geometry.as_pool():
        return pool_windows(plain)
    axes = []
    for axis, size in enumerate(geometry.in_size):
        first, stop = np.array(geometry.windows(axis), np.int64).T
        count = stop - first
        axes.append(AxisWindows(size, first, count, 1, 0, 0, int(count.max()), count.astype(np.float64)))
    return tuple(axes)


def adjoint(windows: AxisWindows) -> AxisWindows:
    """Inputs and outputs exchanged: which outputs see each input. The windows have step 1.

    `scale` becomes what the adjoint multiplies each of its inputs by.
    """
    position = np.arange(windows.size, dtype=np.int64)
    first = np.searchsorted(windows.first + windows.count, position, "right")
    count = np.searchsorted(windows.first, position, "right") - first
    stride, before, taps = 0, 0, max(1, int(count.max()))
    if windows.stride == 1:
        stride, before, taps = 1, windows.taps - 1 - windows.before, windows.taps
    elif windows.stride == 2:
        stride, before, taps = -2, windows.before, windows.taps
    return AxisWindows(windows.out, first, count, 1, stride, before, taps, 1 / windows.scale)


def leading_axes(axes: tuple[AxisWindows, ...]) -> tuple[AxisWindows, AxisWindows, AxisWindows]:
    """The same pool over D, H and W: trivial axes first, those that one output sees as a whole joined into one."""
    one = np.ones(1, np.int64)
    trivial = AxisWindows(1, one - 1, one, 1, 1, 0, 1, np.ones(1))
    kept: list[AxisWindows] = []
    for axis in axes:
        if kept and kept[-1].whole and axis.whole:
            size, scale = kept[-1].size * axis.size, kept[-1].scale * axis.scale
            kept[-1] = AxisWindows(size, one - 1, one * size, 1, 0, 0, size, scale)
        else:
            kept.append(axis)
    kept = [axis for axis in kept if not (axis.whole and axis.size == 1 and axis.scale[0] == 1)] or [trivial]
    d, h, w = [trivial] * (3 - len(kept)) + kept
    return d, h, w


def rescaled(axes: tuple[AxisWindows, ...], factors: tuple[float, ...]) -> tuple[AxisWindows, ...]:
    """The same windows with each axis's divisors multiplied."""
    return tuple(replace(axis, scale=axis.scale * f) for axis, f in zip(axes, factors, strict=True))


def divided_by(axes: tuple[AxisWindows, ...], divisor: float) -> tuple[AxisWindows, ...]:
    """The same windows with one divisor for all outputs."""
    first, *others = (replace(axis, scale=np.ones(axis.out)) for axis in axes)
    return replace(first, scale=np.full(first.out, float(divisor))), *others


def is_apart(axes: tuple[AxisWindows, ...]) -> bool:
    """Whether no input is seen by two outputs."""
    return all(axis.apart for axis in axes)


def is_cover(axes: tuple[AxisWindows, ...]) -> bool:
    """Whether every input is seen by one output."""
    return all(axis.cover for axis in axes)
