"""Which algorithm pays for a convolution: what each must do, in multiply-adds of the direct kernel's inner loop.

The weights of a cost were fitted by hand to some twenty layers timed on a Cascade Lake core with AVX-512, that of
gathers to four. They decide between algorithms that are far apart for most layers. A choice depends on geometry and
policy alone, never on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from fastconv.sources import AxisSources

Sources = Sequence[tuple[AxisSources, ...]]

POINTS = 6  # of Winograd's filtering along an axis
DEPTH_POINTS = 4  # along the first of three axes, where six round too coarsely or are no fewer
DEPTH_CHANNELS = 128  # a group, up to which six do not
TAPS = range(2, 6)
LINE_TAPS = 3  # along the lines of channels_first, where shuffles split the four outputs of a tile

# Multiply-adds that cost as much as
READ = 16  # one element or point of the weight brought from memory while the products run
PACKED = 40  # one element of the weight packed for the direct kernel
TRANSFORMED = 70  # one point of the weight transformed: it is written to memory
INPUT_OUTPUT = {True: 25, False: 36}  # one point of the input or output transformed, by channels_last
GATHERED = 1.3  # times that, where lines are gathered
SHORT_SUMS = 1.15  # times a multiply-add of a product of points, whose sums are short
MARGIN = 0.95  # of the direct cost, above which nothing is won for the coarser rounding
LEAST_CHANNELS = 16  # in and out, a group
FEWEST_TERMS_3D = 512  # of a sum in 3-D, below which the direct kernel rounds less than a quarter as much
MOST_TAPS_3D = 4  # along an axis, above which it does

FEW_CHANNELS = 8  # a group, in and out: then packed lines always pay
NARROW = 14  # outputs of a line below which the microkernel takes two vectors of channels
GROUPED_BYTES = 4 << 20  # of workspace a thread, above which the lines are too long to be packed


def grouped_pays(sources: Sources, groups: int, kin: int, kout: int, vlen: int) -> bool:
    """Whether packed lines are faster in channels_last than the direct kernel, whose tiles few channels leave empty.

    They are where groups share a vector, or fill one: two are half of the direct kernel's tile.
    Timed on Cascade Lake with AVX-512 and AVX2, 2 to 64 channels, 1, 9 and 25 taps.
    """
    if groups == 1:
        return False
    taps = max(prod(len(a.taps) for a in axes) for axes in sources)
    if max(kin, kout) <= FEW_CHANNELS or (kout == vlen and kin <= 2 * vlen):
        return True
    dense = all(a.stride == 1 for axes in sources for a in axes)
    narrow = all(axes[-1].count < NARROW for axes in sources)
    return taps > 1 and kout == 2 * vlen and kin <= kout and (dense or narrow)


def winograd_fits(sources: Sources) -> bool:
    """Whether every phase has 2 to 5 taps an axis."""
    return all(len(axis.taps) in TAPS and axis.stride == 1 for axes in sources for axis in axes)


def products_along(axis: AxisSources, channels_last: bool) -> int:
    """Taps of all positions; channels_last leaves out those that meet padding, for most pixels."""
    if not channels_last:
        return len(axis.taps) * axis.count
    starts = (axis.first + t * axis.tap_step for t in range(len(axis.taps)))
    return sum(int(np.count_nonzero(axis.table[s : s + axis.count] >= 0)) for s in starts)


def tiles_along(axis: AxisSources, points: int) -> int:
    """Tiles of an axis: those of every sub-grid of positions a dilation apart."""
    outputs, dilation = points + 1 - len(axis.taps), abs(axis.tap_step)
    longer, rest = divmod(axis.count, dilation)
    return rest * -(-(longer + 1) // outputs) + (dilation - rest) * -(-longer // outputs)


def winograd_points(axes: Sequence[AxisSources], kin: int) -> list[int]:
    """Points of a tile along each axis.

    Every axis magnifies rounding errors, for 3 taps by 2.7 on six points and by 1.3 on four.
    """
    points = [POINTS] * len(axes)
    if len(axes) == 3 and len(axes[0].taps) <= DEPTH_POINTS:
        few, many = (n * tiles_along(axes[0], n) for n in (DEPTH_POINTS, POINTS))
        if kin > DEPTH_CHANNELS or len(axes[0].taps) == 2 or few <= many:
            points[0] = DEPTH_POINTS
    return points


def rounds_coarsely(sources: Sources, kin: int) -> bool:
    """Whether Winograd's errors are not within four times the direct kernel's."""
    taps = [[len(axis.taps) for axis in axes] for axes in sources]
    return any(len(t) == 3 and (kin * prod(t) < FEWEST_TERMS_3D or max(t) > MOST_TAPS_3D) for t in taps)


def winograd_pays(sources: Sources, channels_last: bool, batch: int, kin: int, kout: int, prepared: bool) -> bool:
    """Whether it is faster than the direct kernel; `prepared` if the weight is transformed ahead of the call."""
    if min(kin, kout) < LEAST_CHANNELS or not winograd_fits(sources) or rounds_coarsely(sources, kin):
        return False
    direct = winograd = 0.0
    for axes in sources:
        taps = prod(len(a.taps) for a in axes)
        products = batch * prod(products_along(a, channels_last) for a in axes)
        along = winograd_points(axes, kin)
        points = prod(along)
        tiles = batch * prod(tiles_along(a, n) for a, n in zip(axes, along, strict=True))
        direct += kin * kout * (products + taps * (READ + (0 if prepared else PACKED)))
        winograd += kin * kout * points * (tiles * SHORT_SUMS + READ + (0 if prepared else TRANSFORMED))
        split = channels_last or len(axes[-1].taps) == LINE_TAPS
        winograd += tiles * points * (kin + kout) * INPUT_OUTPUT[channels_last] * (1 if split else GATHERED)
    return winograd < MARGIN * direct
