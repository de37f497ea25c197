"""Which algorithm pays for a dense convolution: what each must do, in multiply-adds of the direct kernel's inner loop.

The weights of a cost were measured on one Cascade Lake core with AVX-512; they decide between algorithms that are far
apart for most layers. A choice depends on geometry and policy alone, never on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from fastconv.sources import AxisSources

Sources = Sequence[tuple[AxisSources, ...]]

POINTS = 6  # of Winograd's filtering along an axis
TAPS = range(2, 6)
LINE_TAPS = 3  # along the lines of channels_first, where four outputs of a tile fill vectors

# Multiply-adds that cost as much as
READ = 16  # one element or point of the weight brought from memory while the products run
PACKED = 40  # one element of the weight packed for the direct kernel
TRANSFORMED = 70  # one point of the weight transformed: it is written to memory
INPUT_OUTPUT = {True: 25, False: 36}  # one point of the input or output transformed, by channels_last
SHORT_SUMS = 1.15  # times a multiply-add of a product of points, whose sums are short
MARGIN = 0.95  # of the direct cost, above which nothing is won for the coarser rounding
LEAST_CHANNELS = 16  # in and out, a group


def winograd_fits(sources: Sources, channels_last: bool) -> bool:
    """Whether every phase has 2 to 5 neighbouring taps an axis, and 3 along the lines of channels_first."""
    for axes in sources:
        for axis in axes:
            if len(axis.taps) not in TAPS or axis.stride != 1 or abs(axis.tap_step) != 1:
                return False
        if not channels_last and len(axes[-1].taps) != LINE_TAPS:
            return False
    return True


def winograd_pays(sources: Sources, channels_last: bool, batch: int, kin: int, kout: int, prepared: bool) -> bool:
    """Whether it is faster than the direct kernel; `prepared` if the weight is transformed ahead of the call."""
    if min(kin, kout) < LEAST_CHANNELS or not winograd_fits(sources, channels_last):
        return False
    direct = winograd = 0.0
    for axes in sources:
        taps, pixels = (prod(values) for values in zip(*((len(a.taps), a.count) for a in axes), strict=True))
        points = POINTS ** len(axes)
        tiles = batch * prod(-(-a.count // (POINTS + 1 - len(a.taps))) for a in axes)
        direct += kin * kout * taps * (batch * pixels + READ + (0 if prepared else PACKED))
        winograd += kin * kout * points * (tiles * SHORT_SUMS + READ + (0 if prepared else TRANSFORMED))
        winograd += tiles * points * (kin + kout) * INPUT_OUTPUT[channels_last]
    return winograd < MARGIN * direct
