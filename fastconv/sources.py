"""Where each output position of a convolution finds its input, axis by axis: the tables all macro-kernels share.

One table covers every stride, dilation and padding mode, so that macro-kernels have one loop for all of them; the
gradient with respect to the input is the same loop over tables of its stride phases. Along an axis all taps read the
same line, each shifted: a table is as long as the padded axis, whatever the kernel.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from math import gcd
from typing import TypeAlias

import numpy as np

from fastconv.geometry import ConvGeometry

PADDING = -1

Part: TypeAlias = tuple[int, int]
Run: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class AxisSources:
    """The positions start, start + step, ... of a destination axis, `count` of them, and what their taps read.

    Kernel tap `taps[i]` reads for the j-th position the source position table[first + i * tap_step + j * stride], or
    nothing where that is PADDING.
    """

    start: int
    step: int
    count: int
    taps: tuple[int, ...]
    table: np.ndarray
    first: int
    tap_step: int
    stride: int

    def segments(self) -> tuple[np.ndarray, np.ndarray]:
        """Stretches of positions whose sources are evenly spaced, tap by tap.

        Returns rows (start, stop, source, step), positions start .. stop - 1 reading source, source + step, ..., and
        for each tap the index of its first row (and behind the last tap the number of rows).
        """
        pieces = _pieces(self.table)
        rows, first = [], [0]
        for i in range(len(self.taps)):
            at = self.first + i * self.tap_step
            for start, stop, step in pieces:
                begin = max(0, -((at - start) // self.stride))
                end = min(self.count, -((at - stop) // self.stride))
                if begin < end:
                    step = step * self.stride if end - begin > 1 else 1
                    rows.append((begin, end, int(self.table[at + begin * self.stride]), step))
            first.append(len(rows))
        return np.array(rows, np.intp).reshape(-1, 4), np.array(first, np.intp)

    @property
    def is_identity(self) -> bool:
        """Whether every position reads the one of its own index and no other."""
        alone = len(self.taps) == self.step == 1 and self.start == self.first == 0
        return alone and self.count == len(self.table) and bool((self.table == np.arange(self.count)).all())

    def components(self) -> list[AxisSources]:
        """The axis as a sum of axes of stride 1, each with the taps that meet the same ones of every `stride` sources.

        Those of each have the same step; the one with the most taps comes first (polyphase components).
        """
        apart = gcd(self.stride, self.tap_step)
        components = []
        for t in range(min(self.stride // apart, len(self.taps))):
            first, residue = divmod(self.first + t * self.tap_step, self.stride)
            components.append(
                replace(
                    self,
                    taps=self.taps[t :: self.stride // apart],
                    table=self.table[residue :: self.stride],
                    first=first,
                    tap_step=self.tap_step // apart,
                    stride=1,
                )
            )
        return components

    def zones(self) -> list[AxisSources]:
        """The axis cut where a tap enters or leaves the padding, each stretch with the taps that meet some of x."""
        reads = self.first + np.arange(len(self.taps))[:, None] * self.tap_step + np.arange(self.count) * self.stride
        met = self.table[reads] != PADDING
        cuts = np.flatnonzero((met[:, 1:] != met[:, :-1]).any(axis=0)) + 1
        zones = []
        for start, stop in itertools.pairwise([0, *cuts.tolist(), self.count]):
            taps = np.flatnonzero(met[:, start]) if met[:, start].any() else [0]
            low, high = int(taps[0]), int(taps[-1]) + 1
            zones.append(
                replace(
                    self,
                    start=self.start + start * self.step,
                    count=stop - start,
                    taps=self.taps[low:high],
                    first=self.first + low * self.tap_step + start * self.stride,
                )
            )
        return zones

    def part_segments(self, part: Part) -> list[list[int]]:
        """The same rows for the positions of one of `parts_of`, counted from the lowest tap's for the first output."""
        first = self.first + min(0, (len(self.taps) - 1) * self.tap_step) + part[0]
        positions = AxisSources(0, 1, self.count + part[1], (0,), self.table, first, 1, self.stride)
        return positions.segments()[0].tolist()


def _pieces(table: np.ndarray) -> list[tuple[int, int, int]]:
    """(start, stop, step) of stretches of a table that are padding, or sources evenly spaced."""
    edge = np.iinfo(np.intp).max  # a step no source takes: into or out of the padding
    steps = np.where((table[1:] == PADDING) == (table[:-1] == PADDING), np.diff(table), edge)
    changes = np.append(np.flatnonzero(np.diff(steps)) + 1, len(steps))
    pieces, start = [], 0
    while start < len(table):
        step = int(steps[start]) if start < len(steps) else edge
        stop = start + 1 if step == edge else int(changes[np.searchsorted(changes, start, "right")]) + 1
        pieces.append((start, stop, 1 if step == edge else step))
        start = stop
    return pieces


def fold_back(position: np.ndarray, size: int, mode: str = "zeros") -> np.ndarray:
    """Where positions along an unpadded axis are found in x; those outside 0 .. size - 1 are PADDING or fold back."""
    if mode == "reflect" and size > 1:
        return np.abs((position + size - 1) % (2 * size - 2) - (size - 1))
    if mode in ("replicate", "reflect"):
        return np.clip(position, 0, size - 1)
    if mode == "circular":
        return position % size
    return np.where((position < 0) | (position >= size), PADDING, position)


def forward_sources(geometry: ConvGeometry, mode: str = "zeros") -> list[tuple[AxisSources, ...]]:
    """The one phase of a forward convolution: o reads for tap t the input at o * stride + t * dilation - before."""
    g = geometry
    axes = []
    for i, o, k, s, p, d in zip(g.in_size, g.out_size, g.kernel, g.stride, g.padding, g.dilation, strict=True):
        reach = np.arange((o - 1) * s + (k - 1) * d + 1, dtype=np.intp) - p[0]
        axes.append(AxisSources(0, 1, o, tuple(range(k)), fold_back(reach, i, mode), 0, d, s))
    return [tuple(axes)]


def backward_input_sources(geometry: ConvGeometry) -> list[tuple[AxisSources, ...]]:
    """The stride phases of a zero-padded convolution's gradient with respect to its input.

    Input positions r, r + stride, ... meet the same taps, those t with (r + before - t * dilation) divisible by the
    stride, at output position (i + before - t * dilation) / stride: each phase is a small dense convolution of
    grad_y (Dumoulin & Visin 2016, section 4), and no product with a stuffed zero is computed. Positions that no tap
    meets have no phase, so that there are never more phases than taps.
    """
    g = geometry
    axes = [
        _axis_phases(*axis)
        for axis in zip(g.in_size, g.out_size, g.kernel, g.stride, (p[0] for p in g.padding), g.dilation, strict=True)
    ]
    return list(itertools.product(*axes))


def _axis_phases(size: int, out: int, kernel: int, stride: int, before: int, dilation: int) -> list[AxisSources]:
    taps: dict[int, list[int]] = {}
    for t in range(kernel):
        taps.setdefault((t * dilation - before) % stride, []).append(t)
    tap_step = -(dilation // gcd(stride, dilation))
    phases = []
    for r in sorted(r for r in taps if r < size):
        count = -((r - size) // stride)
        nearest, farthest = ((r + before - t * dilation) // stride for t in (taps[r][0], taps[r][-1]))
        table = fold_back(np.arange(farthest, nearest + count, dtype=np.intp), out)
        phases.append(AxisSources(r, stride, count, tuple(taps[r]), table, nearest - farthest, tap_step, 1))
    return phases


def parts_of(shifts: list[int], stride: int, most: int) -> tuple[list[Part], list[Run], list[int]]:
    """How taps that are `shifts` after an axis's lowest fall on the parts that its positions are packed as.

    With stride s position i is the (i // s)-th of part i % s, so that outputs are neighbours. Returns parts (offset,
    more), which hold the positions offset + i * stride of a table for i < outputs + more; runs (part, position, taps)
    of at most so many taps, neighbours from a position on, part by part; and the taps in their order.
    """
    parts: list[Part] = []
    runs: list[Run] = []
    order: list[int] = []
    for residue in sorted({shift % stride for shift in shifts}):
        taps = sorted((shift, tap) for tap, shift in enumerate(shifts) if shift % stride == residue)
        first = taps[0][0]
        for shift, tap in taps:
            position = (shift - first) // stride
            part, begin, length = runs[-1] if runs else (-1, 0, 0)
            if part == len(parts) and length < most and position == begin + length:
                runs[-1] = part, begin, length + 1
            else:
                runs.append((len(parts), position, 1))
            order.append(tap)
        parts.append((first, (taps[-1][0] - first) // stride))
    return parts, runs, order


def places_of(shift: np.ndarray, stride: int, parts: list[Part], size: int, step: int) -> np.ndarray:
    """Where the taps of an axis find their first position in `parts_of` it, of `size` elements each.

    `shift` is each tap's after the lowest; positions of a part are `step` elements apart.
    """
    residues = [offset % stride for offset, _ in parts]
    part = np.array([residues.index(s % stride) for s in shift])
    first = np.array([parts[i][0] for i in part])
    return part * size + (shift - first) // stride * step


def shared_padding(segments: list[list[list[int]]], parts: list[Part]) -> int:
    """How many elements of padding the end of every line may share with the beginning of the next one.

    `segments` are each part's; a line is as long as the part with the most positions.
    """
    most = max(more for _, more in parts)
    shared = []
    for rows, (_, more) in zip(segments, parts, strict=True):
        (_, before, source, _), (start, stop, last, _) = rows[0], rows[-1]
        before, behind = before if source == PADDING else 0, stop - start if last == PADDING else 0
        shared.append(min(before, behind) + most - more)
    return min(shared)
