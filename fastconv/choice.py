"""Which algorithm runs a convolution, and why: what each must do, in multiply-adds of the direct kernel's inner loop.

The weights of a cost were fitted to every convolution of benchmarks/shapes.py that both algorithms can run, in both
layouts, weights packed ahead, timed on two Zen 5 cores with AVX-512: choosing by them loses 1.5 % of the time on
average against the better of the two. (Fitted to Cascade Lake, where transforms cost half as much again, they lost
3 %.) Those of packing within the call, and of weight gradients, were fitted on the same cores to some forty layers of
few pixels, where they count: choosing by them loses 2 % and 11 % there. A choice depends on geometry and policy alone,
never on the number of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from fastconv.sources import AxisSources

Sources = Sequence[tuple[AxisSources, ...]]

POINTS = 6  # of Winograd's filtering along an axis
PLANE_POINTS = 5  # along both of two axes, where outputs fill tiles of three better than those of four
PLANE_TAPS = 4  # along an axis, up to which they do
DEPTH_POINTS = 4  # along the first of three axes, where six round too coarsely or are no fewer
DEPTH_CHANNELS = 128  # a group, up to which six do not
TAPS = range(2, 6)
LINE_TAPS = 3  # along the lines of channels_first, which most tiles have

# Multiply-adds that cost as much as
READ = 14  # one element or point of the weight brought from memory while the products run
PACKED = 30  # one element of the weight packed for the direct kernel
TRANSFORMED = 10  # one point of the weight transformed
TRANSFORMED_FAR = 30  # or where more points are written to memory than
NEAR_POINTS = 6 << 20  # a last-level cache keeps
INPUT_OUTPUT = {True: 16, False: 23}  # one point of the input or output transformed, by channels_last
OTHER_TAPS = 0.85  # times that, with other taps along the lines
STRIDED_INPUT = {True: 1.2, False: 3.5}  # or where inputs lie apart
FAR_INPUT = 2.5  # or where in channels_first the inputs of a dilated line lie apart, and the line is
LONG_LINE = 512  # outputs or longer, so that vectors of them lie in as many cache lines
SHORT_SUMS = 1.15  # times a multiply-add of a product of points, whose sums are short
MARGIN = 0.95  # of the direct cost, above which nothing is won for the coarser rounding
LEAST_CHANNELS = 16  # in and out, a group
FEWEST_TERMS_3D = 512  # of a sum in 3-D, below which the direct kernel rounds less than a quarter as much
MOST_TAPS_3D = 4  # along an axis, above which it does

GRADIENT_TAPS = {1: 5, 2: 4, 3: 3}  # of an axis, by dimension, above which weight gradients round coarsely

# The same for weight gradients, in multiply-adds of their direct kernel's inner loop
GRADIENT_SUM = 20  # one element of the sums of points, written first and transformed at last
GRADIENT_SUM_FAR = 50  # or where they are more than
NEAR_SUMS = 3 << 20  # caches keep beside the points
GRADIENT_INPUT = {True: 20, False: 24}  # one point of x or of grad_y transformed, by channels_last

ZONED = 0.65  # of the products of all taps, above which zones are not worth their smaller tiles
ZONED_PRODUCT = 1.2  # times a multiply-add of whole phases: tiles of zones are small
ZONED_CHANNELS = 64  # a group, below which a tap's sums are too short to be added up tap by tap

# Cycles, in channels_last, of
ONE_VECTOR = 0.6  # a pixel's product of one vector, in tiles of few sums, which wait for loads
TURNED = 0.6  # turning one element

FEW_CHANNELS = 8  # a group, in and out: then packed lines always pay
NARROW = 14  # outputs of a line below which the microkernel takes two vectors of channels
GROUPED_BYTES = 4 << 20  # of workspace a thread, above which the lines are too long to be packed

ASKED = "asked for"


class Costs(NamedTuple):
    """What the direct kernel and Winograd's filtering must do, in multiply-adds of the direct kernel's inner loop."""

    direct: float
    winograd: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The algorithm of a convolution and why it is that one, with the costs if they were compared.

    It is `coarse` where the rounding error is not held to four times that of the direct kernel.
    """

    algorithm: str
    reason: str
    costs: Costs | None = None
    coarse: bool = False


@dataclass(frozen=True, slots=True)
class Dense:
    """A convolution that is not depthwise, as choices see it.

    `kin` and `kout` are source and destination channels a group, `size` the destination's; `prepared` if the weight is
    packed ahead of the call, `packs_lines` unless the lines of the grouped kernel turned out too long for it.
    """

    sources: Sources
    size: tuple[int, ...]
    batch: int
    groups: int
    kin: int
    kout: int
    channels_last: bool
    vlen: int
    prepared: bool
    packs_lines: bool = True


def choose_depthwise(in_channels: int, out_channels: int, groups: int, policy: str) -> Choice | None:
    """The kernel of one input channel a group, or None; a channel with several outputs is dense work for "auto"."""
    if groups != in_channels or policy not in ("auto", "depthwise"):
        return None
    if policy == "depthwise":
        return Choice("depthwise", ASKED)
    if groups > 1:
        return Choice("depthwise", "one input channel a group")
    return Choice("depthwise", "one channel in and out") if out_channels == 1 else None


def choose_dense(task: Dense, policy: str) -> Choice:
    """The kernel of any other convolution."""
    if policy == "direct":
        return Choice("direct", ASKED)
    if policy == "depthwise":
        return Choice("direct", '"depthwise" was asked for, but a group has several input channels')
    if policy == "grouped":
        refused = grouped_refused(task)
        return Choice("direct", f'"grouped" was asked for, but {refused}') if refused else Choice("grouped", ASKED)
    if policy == "winograd":
        if refused := winograd_refused(task):
            return Choice("direct", f'"winograd" was asked for, but {refused}')
        return Choice("winograd", ASKED, coarse=bool(too_coarse(task)))
    return _choose_quickest(task)


def choose_backward_weight(task: Dense, policy: str, windows: bool = False) -> Choice:
    """The weight gradient's kernel, where it is not depthwise; `task` is the forward convolution.

    `windows`: its groups share vectors, and their gradients can be summed in windows.
    """
    if policy == "direct":
        return Choice("direct", ASKED)
    if windows and policy in ("auto", "grouped"):
        return Choice("grouped", ASKED if policy == "grouped" else "groups share vectors, and taps are 3x3 windows")
    if policy not in ("auto", "winograd"):
        return Choice("direct", f'"{policy}" was asked for, but no weight gradient is summed so')
    refused, coarse = gradient_refused(task), gradient_too_coarse(task)
    if policy == "winograd":
        if refused:
            return Choice("direct", f'"winograd" was asked for, but {refused}')
        return Choice("winograd", ASKED, coarse=bool(coarse))
    if refused or coarse:
        return Choice("direct", f"no Winograd: {refused or coarse}")
    return _cheaper(Costs(_direct_gradient_cost(task), _winograd_gradient_cost(task)))


def _choose_quickest(task: Dense) -> Choice:
    """The policy "auto"."""
    if not grouped_refused(task) and (gain := grouped_gain(task)):
        return Choice("grouped", gain)
    if refused := winograd_refused(task) or too_coarse(task):
        return Choice("direct", f"no Winograd: {refused}")
    return _cheaper(costs_of(task))


def _cheaper(costs: Costs) -> Choice:
    if costs.winograd < MARGIN * costs.direct:
        return Choice("winograd", f"it costs less than {MARGIN:g} times what direct does", costs)
    return Choice("direct", f"Winograd does not cost less than {MARGIN:g} times what direct does", costs)


def is_covered(task: Dense) -> bool:
    """Whether every output meets a tap."""
    return sum(prod(axis.count for axis in axes) for axes in task.sources) == prod(task.size)


def grouped_refused(task: Dense) -> str | None:
    """Why packed lines of few channels cannot run, or None if they can."""
    if not task.channels_last:
        return "channels_first packs lines in the direct kernel"
    if not is_covered(task):
        return "some outputs meet no tap"
    return None if task.packs_lines else f"lines would take more than {GROUPED_BYTES >> 20} MB a thread"


def grouped_gain(task: Dense) -> str | None:
    """Why packed lines are faster in channels_last than the direct kernel, whose tiles few channels leave empty.

    They are where groups share a vector, or fill one: two are half of the direct kernel's tile.
    Timed on Cascade Lake with AVX-512 and AVX2, 2 to 64 channels, 1, 9 and 25 taps.
    """
    sources, kin, kout, vlen = task.sources, task.kin, task.kout, task.vlen
    if task.groups == 1:
        return None
    taps = max(prod(len(a.taps) for a in axes) for axes in sources)
    if max(kin, kout) <= FEW_CHANNELS:
        return "groups of few channels share vectors"
    if kout == vlen and kin <= 2 * vlen:
        return "the channels of a group fill a vector"
    dense = all(a.stride == 1 for axes in sources for a in axes)
    narrow = all(axes[-1].count < NARROW for axes in sources)
    if taps > 1 and kout == 2 * vlen and kin <= kout and (dense or narrow):
        return "the channels of a group fill two vectors"
    return None


def zoned(sources: Sources, batch: int, kin: int, vlen: int) -> Sources:
    """The one phase of a convolution cut into zones without taps that meet nothing but padding there, if that pays.

    Far dilation makes it pay: taps 12 apart on 33 x 33 pixels read padding for 43 % of their products.
    """
    if len(sources) != 1 or kin < ZONED_CHANNELS:
        return sources
    zones = list(itertools.product(*(axis.zones() for axis in sources[0])))
    whole, cut = (
        sum(-(-batch * prod(a.count for a in axes) // vlen) * prod(len(a.taps) for a in axes) for axes in phases)
        for phases in (sources, zones)
    )
    return zones if cut < ZONED * whole else sources


def turned(sources: Sources, groups: int, kout: int, vlen: int) -> bool:
    """Whether pixels are turned to lines of planes, since their output channels would leave most lanes empty.

    In vectors of multiply-adds an element of the source and a tile of 6 pixels by one vector of channels, or of 3 rows
    by four vectors of pixels, after 16 x 16 elements have been transposed in a hundred cycles.
    """
    taps = [prod(len(a.taps) for a in axes) for axes in sources]
    pixels = sum(taps) * -(-kout // vlen) * ONE_VECTOR
    return groups == 1 and kout < vlen and sum(taps) * kout / (2 * vlen) + len(taps) * TURNED < pixels


def winograd_refused(task: Dense) -> str | None:
    """Why Winograd's filtering cannot run, or None if it fits every phase."""
    if not is_covered(task):
        return "some outputs meet no tap"
    for axis in (axis for phase in task.sources for axis in phase):
        if filter_taps(axis) not in TAPS:
            return f"an axis has not {TAPS[0]} to {TAPS[-1]} taps" + (" a component" if axis.stride > 1 else "")
    return None


def too_coarse(task: Dense) -> str | None:
    """Why Winograd's errors may not be within four times the direct kernel's, or what they would gain is little."""
    if min(task.kin, task.kout) < LEAST_CHANNELS:
        return f"fewer than {LEAST_CHANNELS} channels a group"
    for axes in task.sources:
        taps = [filter_taps(axis) for axis in axes]
        if len(taps) == 3 and any(axis.stride > 1 for axis in axes):
            return "points of strides in 3-D are too many to stay in caches"
        if len(taps) == 3 and task.kin * prod(len(axis.taps) for axis in axes) < FEWEST_TERMS_3D:
            return f"it rounds too coarsely in 3-D for sums of fewer than {FEWEST_TERMS_3D} terms"
        if len(taps) == 3 and max(taps) > MOST_TAPS_3D:
            return f"it rounds too coarsely in 3-D for more than {MOST_TAPS_3D} taps an axis"
    return None


def gradient_refused(task: Dense) -> str | None:
    """Why a weight gradient cannot be summed by Winograd's filtering, or None if it can."""
    if any(axis.stride != 1 for axes in task.sources for axis in axes):
        return "an axis has a stride"
    return winograd_refused(task)


def gradient_too_coarse(task: Dense) -> str | None:
    """Why errors of a weight gradient may not be within four times the direct kernel's, or gains are little."""
    if min(task.kin, task.kout) < LEAST_CHANNELS:
        return f"fewer than {LEAST_CHANNELS} channels a group"
    taps = [len(axis.taps) for axis in task.sources[0]]
    if max(taps) > GRADIENT_TAPS[len(taps)]:
        return f"it rounds too coarsely in {len(taps)}-D for more than {GRADIENT_TAPS[len(taps)]} taps an axis"
    return None


def products_along(axis: AxisSources, channels_last: bool) -> int:
    """Taps of all positions; channels_last leaves out those that meet padding, for most pixels."""
    if not channels_last:
        return len(axis.taps) * axis.count
    starts = (axis.first + t * axis.tap_step for t in range(len(axis.taps)))
    return sum(int(np.count_nonzero(axis.table[s : s + axis.count] >= 0)) for s in starts)


def filter_taps(axis: AxisSources) -> int:
    """Taps of an axis as Winograd's filtering has them: the most of a stride component."""
    return len(axis.components()[0].taps)


def tiles_along(axis: AxisSources, points: int) -> int:
    """Tiles of an axis: those of every sub-grid of positions a dilation apart."""
    outputs, dilation = points + 1 - filter_taps(axis), abs(axis.components()[0].tap_step)
    longer, rest = divmod(axis.count, dilation)
    return rest * -(-(longer + 1) // outputs) + (dilation - rest) * -(-longer // outputs)


def products_of_points(axis: AxisSources, points: int) -> int:
    """Multiplications of a tile's points along an axis: a component of fewer taps has none in the last."""
    taps = [len(component.taps) for component in axis.components()]
    return sum(points if n == taps[0] else points - 1 for n in taps)


def winograd_points(axes: Sequence[AxisSources], kin: int) -> list[int]:
    """Points of a tile along each axis.

    Every axis magnifies rounding errors, for 3 taps by 2.7 on six points and by 1.3 on four.
    """
    points = plane_points(axes)
    if len(axes) == 3 and filter_taps(axes[0]) <= DEPTH_POINTS:
        few, many = (n * tiles_along(axes[0], n) for n in (DEPTH_POINTS, POINTS))
        if kin > DEPTH_CHANNELS or filter_taps(axes[0]) == 2 or few <= many:
            points[0] = DEPTH_POINTS
    return points


def gradient_points(axes: Sequence[AxisSources]) -> list[int]:
    """The same for a weight gradient, whose sums over pixels are long."""
    points = plane_points(axes)
    if len(axes) == 3 and filter_taps(axes[0]) < DEPTH_POINTS:
        points[0] = DEPTH_POINTS
    return points


def plane_points(axes: Sequence[AxisSources]) -> list[int]:
    """Points of a tile along each axis, as if rounding did not matter: of two, those that are fewer in all."""
    if len(axes) == 2 and max(map(filter_taps, axes)) <= PLANE_TAPS:
        few, many = (prod(n * tiles_along(axis, n) for axis in axes) for n in (PLANE_POINTS, POINTS))
        if few < many:
            return [PLANE_POINTS] * 2
    return [POINTS] * len(axes)


def costs_of(task: Dense) -> Costs:
    """What both algorithms must do, where Winograd's filtering fits."""
    return Costs(_direct_cost(task), _winograd_cost(task))


def _direct_cost(task: Dense) -> float:
    phases = task.sources if task.channels_last else zoned(task.sources, task.batch, task.kin, task.vlen)
    products = task.batch * sum(prod(products_along(a, task.channels_last) for a in axes) for axes in phases)
    price = 1 if phases is task.sources else ZONED_PRODUCT
    taps = sum(prod(len(a.taps) for a in axes) for axes in phases)
    return float(task.kin * task.kout * (price * products + taps * (READ + (0 if task.prepared else PACKED))))


def _winograd_cost(task: Dense) -> float:
    kin, kout, cost = task.kin, task.kout, 0.0
    for axes in task.sources:
        along = winograd_points(axes, kin)
        points, components = prod(along), prod(len(a.components()) for a in axes)
        products = prod(products_of_points(a, n) for a, n in zip(axes, along, strict=True))
        tiles = task.batch * prod(tiles_along(a, n) for a, n in zip(axes, along, strict=True))
        transformed = TRANSFORMED if task.groups * kin * kout * products <= NEAR_POINTS else TRANSFORMED_FAR
        cost += kin * kout * products * (tiles * SHORT_SUMS + READ + (0 if task.prepared else transformed))
        others = not task.channels_last and filter_taps(axes[-1]) != LINE_TAPS
        strided = STRIDED_INPUT[task.channels_last] if components > 1 else 1
        if not task.channels_last and abs(axes[-1].components()[0].tap_step) > 1 and axes[-1].count >= LONG_LINE:
            strided *= FAR_INPUT
        moved = points * (components * kin * strided + kout)
        cost += tiles * moved * INPUT_OUTPUT[task.channels_last] * (OTHER_TAPS if others else 1)
    return cost


def _direct_gradient_cost(task: Dense) -> float:
    products = task.batch * prod(products_along(axis, True) for axis in task.sources[0])
    return float(task.kin * task.kout * products)


def _winograd_gradient_cost(task: Dense) -> float:
    along = gradient_points(task.sources[0])
    tiles = task.batch * prod(tiles_along(a, n) for a, n in zip(task.sources[0], along, strict=True))
    written = GRADIENT_SUM if prod(along) * task.kin * task.kout <= NEAR_SUMS else GRADIENT_SUM_FAR
    sums = task.kin * task.kout * (tiles * SHORT_SUMS + written)
    return prod(along) * (sums + tiles * (task.kin + task.kout) * GRADIENT_INPUT[task.channels_last])
