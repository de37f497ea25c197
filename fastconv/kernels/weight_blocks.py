"""How backward_weight cuts its work: blocks of pixels, tasks of the gradient, parts of the pixels.

Everything here follows from the geometry, the register tile and the size of an element, never from the number of
threads: results are the same bits for any team. The tables are as long as the axes, not as the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from fastconv.geometry import ConvGeometry
from fastconv.sources import PADDING, fold_back

BLOCK_BYTES = 384 * 1024  # packed pixels of grad_y and x; with a task's sums they leave a third of a 1 MB L2 free
SUM_BYTES = 256 * 1024  # the sums of one task
PARTIAL_BYTES = 16 * 1024 * 1024  # the sums of all parts, whatever the batch
BLOCK_PIXELS = (512, 384, 256, 192, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
PART_PIXELS = 2048  # with fewer pixels a part, adding the parts would show
TASKS = 64  # wanted at least, as long as they spend no more than PACKING_SHARE of their cycles on packing
FEW_TASKS = 8  # up to so many, adding is worth what it costs: else small layers would have one,
FEW_PIXELS, TASK_WORK = 256, 500_000  # of parts of so many pixels and multiply-adds at least
PACKING_SHARE = 0.08
GAP = 4  # so many unused positions between used ones are cheaper to pack than to skip

# What a pixel costs in cycles; a core is taken to multiply two vectors, load two and issue four instructions in one.
COPY, COPY_LANE = 2.0, 0.25  # into a tile or a vector of a panel, whatever of it is used: a copy or a transpose
LINE = 8.0  # bytes of 64 that come from beyond L2
PIECE_VECTOR = 2.5  # a vector of a stretch of a patch
PAIR = 1.5  # an entry in a tap's list


@dataclass(frozen=True, slots=True)
class Tile:
    """A register tile: rows, columns and vector length in elements, bytes an element."""

    mr: int
    nr: int
    vlen: int
    itemsize: int


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis of a convolution."""

    size: int = 1
    out: int = 1
    kernel: int = 1
    stride: int = 1
    before: int = 0
    dilation: int = 1
    mode: str = "zeros"


@dataclass(frozen=True, slots=True)
class Spacing:
    """How the sources of a block are packed along an axis: output o and tap t at o * step + t * tap_step.

    Packed position p stands for padded position p // period * outer + p % period * inner from the block's first on.
    """

    step: int
    tap_step: int
    positions: int
    period: int
    outer: int
    inner: int

    def padded(self) -> np.ndarray:
        repeat, within = np.divmod(np.arange(self.positions), self.period)
        return repeat * self.outer + within * self.inner


@dataclass(frozen=True, slots=True)
class AxisBlocks:
    """An axis cut into `count` blocks of `length` outputs (the last may be shorter), and their packed sources.

    Output o of block b and tap t read packed position o * step + shift[t] if first[b, t] <= o < stop[b, t], else
    padding. sources[b, p] is the position of x at packed position p, or PADDING where nothing is read. The runs
    first_run[b] .. first_run[b + 1] - 1 of a block are its stretches (p, source, length) that are contiguous in x.
    """

    length: int
    count: int
    positions: int
    step: int
    shift: np.ndarray
    first: np.ndarray
    stop: np.ndarray
    sources: np.ndarray
    runs: np.ndarray
    first_run: np.ndarray


@dataclass(frozen=True, slots=True)
class Task:
    """What a task sums: so many output channels, input channels and taps of a bundle of groups."""

    co: int
    ci: int
    taps: int


@dataclass(frozen=True, slots=True)
class WeightBlocks:
    """The whole cut: pixels are `images` x a block of each axis, `part_blocks` of them a part.

    `bundle` groups are treated as one dense group, of whose gradient only the blocks on the diagonal are kept; with
    `patches`, vectors run over (tap, input channel) instead of input channels.
    """

    bundle: int
    patches: bool
    axes: tuple[AxisBlocks, ...]
    images: int
    task: Task
    part_blocks: int
    parts: int


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def even(total: int, most: int, unit: int = 1) -> int:
    """The size of a part when `total` is cut into equal parts of about `most`, in whole units."""
    return ceil_div(ceil_div(total, ceil_div(total, max(most, 1))), unit) * unit


def axes_of(g: ConvGeometry, mode: str) -> tuple[Axis, ...]:
    """Depth, height and width; missing axes come first and have one position."""
    axes = zip(g.in_size, g.out_size, g.kernel, g.stride, g.padding, g.dilation, strict=True)
    return (*(Axis(),) * (3 - g.ndim), *(Axis(i, o, k, s, p[0], d, mode) for i, o, k, s, p, d in axes))


# --- pixels ---------------------------------------------------------------------------------------------------------


def spacing(axis: Axis, length: int) -> Spacing:
    """Packed like padded, unless windows or taps lie so far apart that what is between them is left out."""
    reach, span = (axis.kernel - 1) * axis.dilation + 1, (length - 1) * axis.stride + 1
    if axis.stride >= reach + GAP:
        inner = axis.dilation if axis.dilation <= GAP else 1
        window = (axis.kernel - 1) * inner + 1
        return Spacing(window, inner, length * window, window, axis.stride, axis.dilation // inner)
    if axis.dilation >= span + GAP:
        return Spacing(axis.stride, span, axis.kernel * span, span, axis.dilation, 1)
    return Spacing(axis.stride, axis.dilation, reach + span - 1, reach + span, 0, 1)


def axis_blocks(axis: Axis, length: int, *, whole_lines: bool, keep_padding: bool) -> AxisBlocks:
    """Blocks of `length` outputs; `whole_lines` (depth, height) leaves out every position that no tap reads.

    Without `keep_padding`, positions before the first and after the last that is ever read are cut off: lines of x
    that are read from end to end then stand side by side, as they do in x.
    """
    at = spacing(axis, length)
    shift = np.arange(axis.kernel) * at.tap_step
    start = np.arange(ceil_div(axis.out, length))[:, None] * length
    outs = np.minimum(length, axis.out - start)
    sources = fold_back(start * axis.stride + at.padded() - axis.before, axis.size, axis.mode)
    sources[np.arange(at.positions) > (outs - 1) * at.step + shift[-1]] = PADDING
    if whole_lines:
        unread = np.ones(at.positions, bool)
        unread[np.arange(length)[:, None] * at.step + shift] = False
        sources[:, unread] = PADDING
    if not keep_padding:
        read = np.flatnonzero((sources != PADDING).any(0))
        begin, end = (read[0], read[-1] + 1) if len(read) else (0, 1)
        shift, sources = shift - begin, sources[:, begin:end]
    first, stop = read_outputs(axis, start, outs)
    runs, first_run = contiguous_runs(sources)
    return AxisBlocks(
        length=length,
        count=len(start),
        positions=sources.shape[1],
        step=at.step,
        shift=as_table(shift),
        first=as_table(first),
        stop=as_table(stop),
        sources=as_table(sources),
        runs=as_table(runs),
        first_run=as_table(first_run),
    )


def read_outputs(axis: Axis, start: np.ndarray, outs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each block and tap, the outputs first .. stop - 1 whose source is not padding."""
    position = start * axis.stride + np.arange(axis.kernel) * axis.dilation - axis.before
    if axis.mode != "zeros":
        return np.zeros_like(position), np.broadcast_to(outs, position.shape)
    first = np.clip(-(position // axis.stride), 0, outs)
    return first, np.clip(-((position - axis.size) // axis.stride), first, outs)


def contiguous_runs(sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(p, source, length) of each longest stretch with sources[b, p + i] = source + i, and the first one of each b."""
    read = sources != PADDING
    distant = np.full((len(sources), 1), -3)  # no source follows it
    fresh = np.diff(np.where(read, sources, distant), axis=1, prepend=distant, append=distant) != 1
    block, start = np.nonzero(read & fresh[:, :-1])
    stop = np.nonzero(read & fresh[:, 1:])[1] + 1
    runs = np.stack([start, sources[block, start], stop - start], axis=1)
    return runs, np.searchsorted(block, np.arange(len(sources) + 1))


def as_table(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a, np.intp)


def block_shape(axes: tuple[Axis, ...], batch: int, most: int) -> tuple[int, ...]:
    """Images and outputs along each axis of a block of at most `most` pixels: whole lines, planes and images first."""
    shape: tuple[int, ...] = ()
    for total in (*(axis.out for axis in reversed(axes)), max(batch, 1)):
        shape = (even(total, most // prod(shape)), *shape)
    return shape


def patch_pieces(segments: np.ndarray, length: int, nr: int, panel: int) -> np.ndarray:
    """(from, to, length, room) of each copy of one pixel's segments into rows of panels, `panel` elements apart."""
    pieces = []
    column = 0
    for segment in segments.tolist():
        done = 0
        while done < length:
            some = min(length - done, nr - column % nr)
            pieces.append((segment + done, column // nr * panel + column % nr, some, nr - column % nr))
            done, column = done + some, column + some
    return as_table(np.array(pieces))


# --- the gradient ---------------------------------------------------------------------------------------------------


class _Cutter:
    """The search for a task, a block of pixels and a number of parts."""

    def __init__(self, g: ConvGeometry, mode: str, tile: Tile) -> None:
        self.g, self.tile, self.axes = g, tile, axes_of(g, mode)
        self.line = self.axes[-1].kernel  # taps along W: a patch is made of whole lines of the kernel
        self.group = Task(g.out_channels // g.groups, g.in_channels // g.groups, prod(g.kernel))
        self.segment = self.group.ci * (self.line if self.axes[-1].dilation == 1 else 1)
        self.shape = block_shape(self.axes, g.batch, BLOCK_PIXELS[0])
        self.bundle, self.patches = min(self._manners(), key=lambda manner: self._group_cycles(*manner))
        self.whole = Task(self.group.co * self.bundle, self.group.ci * self.bundle, self.group.taps)

    def _manners(self) -> Iterator[tuple[int, bool]]:
        """Ways to fill the lanes of a vector: a group's channels, its patches, the channels of several groups."""
        yield 1, False
        yield 1, True
        for bundle in range(2, min(self.g.groups, self.tile.vlen // self.group.ci) + 1):
            if self.g.groups % bundle == 0:
                yield bundle, False

    def _group_cycles(self, bundle: int, patches: bool) -> float:
        """Cycles for a pixel of one group."""
        task = replace(self.group, co=self.group.co * bundle, ci=self.group.ci * bundle)
        if patches:
            return self._product_cycles(task.co, task.taps * task.ci) + self._packing_cycles(task, True)
        return (task.taps * self._product_cycles(task.co, task.ci) + self._packing_cycles(task, False)) / bundle

    def _product_cycles(self, rows: int, columns: int) -> float:
        """Cycles of one pixel's products by register tiles, most of them whole and some narrower or lower."""
        tiles, vectors = ceil_div(rows, self.tile.mr), ceil_div(columns, self.tile.vlen)
        low, wide = rows / tiles, self.tile.nr // self.tile.vlen
        return tiles * (
            vectors // wide * tile_cycles(low, wide) + (vectors % wide and tile_cycles(low, vectors % wide))
        )

    def _packing_cycles(self, task: Task, patches: bool) -> float:
        """Cycles to pack a pixel of grad_y and what it takes of x, and to list or copy what each tap reads."""
        positions = self._positions(self.shape) / prod(self.shape)
        tiles = ceil_div(task.co, self.tile.mr) + ceil_div(task.ci, self.tile.vlen) * positions
        copies = (COPY + COPY_LANE * self.tile.vlen) * tiles + LINE * (
            self._lines(task.co) + self._lines(task.ci) * positions
        )
        if not patches:
            return copies + PAIR * task.taps
        pieces = task.taps * task.ci // self.segment
        return copies + pieces * PIECE_VECTOR * ceil_div(self.segment, self.tile.vlen)

    def _lines(self, channels: int) -> float:
        """Cache lines of a pixel that have to be read for so many of its channels."""
        lines = channels * self.tile.itemsize / 64
        return max(1.0, lines) if self.g.channels_last else lines

    def _positions(self, shape: tuple[int, ...]) -> int:
        return shape[0] * prod(spacing(a, n).positions for a, n in zip(self.axes, shape[1:], strict=True))

    def columns(self, task: Task) -> int:
        """Elements of a row of sums: [tap][ci] with whole vectors a tap, or a patch."""
        if self.patches:
            return ceil_div(task.ci * task.taps, self.tile.vlen) * self.tile.vlen
        return ceil_div(task.ci, self.tile.vlen) * self.tile.vlen * task.taps

    def sum_bytes(self, task: Task) -> int:
        """The sums of a task, and of its rows for the bias."""
        return task.co * (self.columns(task) + 1) * self.tile.itemsize

    def block_bytes(self, task: Task, shape: tuple[int, ...]) -> int:
        """Packed grad_y, packed x, and patches."""
        rows = ceil_div(task.co, self.tile.mr) * self.tile.mr
        across = task.ci if self.patches else ceil_div(task.ci, self.tile.nr) * self.tile.nr
        patch = self.columns(task) if self.patches else 0
        return (prod(shape) * (rows + patch) + self._positions(shape) * across) * self.tile.itemsize

    def count(self, task: Task) -> int:
        """Tasks of all groups."""
        whole = self.whole
        each = ceil_div(whole.co, task.co) * ceil_div(whole.ci, task.ci) * ceil_div(whole.taps, task.taps)
        return self.g.groups // self.bundle * each

    def packing_share(self, task: Task) -> float:
        """Cycles of a task spent on packing, relative to its multiplications."""
        across = (1, task.taps * task.ci) if self.patches else (task.taps, task.ci)
        return self._packing_cycles(task, self.patches) / (across[0] * self._product_cycles(task.co, across[1]))

    def finer(self, task: Task) -> Task | None:
        """The task cut once more along the side where packing suffers least; None when it is small enough."""
        mr, nr, whole = self.tile.mr, self.tile.nr, self.whole
        unit = self.line if self.patches else 1
        cuts = []
        if task.co > mr:
            cuts.append(replace(task, co=smaller(whole.co, task.co)))
        if task.ci > nr and not self.patches:
            cuts.append(replace(task, ci=smaller(whole.ci, task.ci, nr)))
        if task.taps > unit and task.taps * task.ci > nr:
            cuts.append(replace(task, taps=smaller(whole.taps, task.taps, unit)))
        return min(cuts, key=self.packing_share, default=None)

    def parts(self, task: Task, blocks: int) -> tuple[int, int]:
        """Blocks a part and parts: enough for TASKS tasks, few enough for the budget of partial sums."""
        tasks = self.count(task)
        pixels = self.g.batch * prod(self.g.out_size)
        most = max(1, PARTIAL_BYTES // (tasks * self.sum_bytes(task)))
        work = pixels * prod((self.whole.co, self.whole.ci, self.whole.taps)) * self.g.groups // self.bundle
        few = min(ceil_div(FEW_TASKS, tasks), pixels // FEW_PIXELS, work // TASK_WORK)
        wanted = min(ceil_div(TASKS, tasks), max(1, few, pixels // PART_PIXELS), most)
        part_blocks = max(1, blocks // wanted, ceil_div(blocks, most))
        return part_blocks, max(1, ceil_div(blocks, part_blocks))

    def cut(self) -> WeightBlocks:
        task = self.whole
        while self.sum_bytes(task) > SUM_BYTES and (finer := self.finer(task)):
            task = finer
        shapes = (block_shape(self.axes, self.g.batch, most) for most in BLOCK_PIXELS)
        self.shape = next((s for s in shapes if self.block_bytes(task, s) <= BLOCK_BYTES), (1, 1, 1, 1))
        sizes = (self.g.batch, *(a.out for a in self.axes))
        blocks = prod(ceil_div(n, s) for n, s in zip(sizes, self.shape, strict=True))
        while self.count(task) * self.parts(task, blocks)[1] < TASKS and (finer := self.finer(task)):
            if self.packing_share(finer) > PACKING_SHARE:
                break
            task = finer
        axes = tuple(
            axis_blocks(axis, length, whole_lines=axis is not self.axes[-1], keep_padding=self.patches)
            for axis, length in zip(self.axes, self.shape[1:], strict=True)
        )
        return WeightBlocks(self.bundle, self.patches, axes, self.shape[0], task, *self.parts(task, blocks))


def tile_cycles(rows: float, vectors: int) -> float:
    """Cycles of a register tile a pixel: bound by multiply-adds, by loads or by instructions."""
    loads = rows + vectors + 2
    return max(rows * vectors / 2, loads / 2, (rows * vectors + loads + 2) / 4)


def smaller(total: int, size: int, unit: int = 1) -> int:
    """The next smaller even part of `total`, in whole units."""
    return min(size - unit, even(total, size - unit, unit))


def weight_blocks(geometry: ConvGeometry, mode: str, tile: Tile) -> WeightBlocks:
    """The cut of a geometry's weight gradient for a register tile."""
    return _Cutter(geometry, mode, tile).cut()
