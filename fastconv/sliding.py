"""How the taps of one axis slide over its positions: the tables of fastconv.sources as runs of neighbouring taps.

A kernel that keeps a block of sums in registers wants to load a source position once for all taps that meet it. That
needs a lattice on which outputs and taps both advance in whole steps. Outputs of stride s are s source positions apart,
so the lattice has that spacing, and every residue of s that some tap meets is a lattice of its own, with its own run of
taps: x[o * s + t * d] with t = t0 + u * s / gcd(s, d) lies d / gcd(s, d) lattice positions further for each u.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from fastconv.sources import PADDING, fold_back

Positions = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class TapRun:
    """Taps tap, tap + tap_step, ... (`taps` of them): output j and the u-th tap meet at position j + u * dilation.

    Position i reads table[i], PADDING where there is none; for first <= i < end that is origin + i * stride.
    """

    tap: int
    taps: int
    origin: int
    first: int
    end: int
    table: Positions


@dataclass(frozen=True, slots=True)
class SlidingPhase:
    """Destination positions start, start + step, ... (`count` of them), which meet the same taps."""

    start: int
    count: int
    runs: tuple[TapRun, ...]


@dataclass(frozen=True, slots=True)
class SlidingAxis:
    """The phases of an axis that meet any taps, and what they have in common."""

    step: int
    stride: int
    dilation: int
    tap_step: int
    phases: tuple[SlidingPhase, ...]


def forward_axis(
    size: int, out: int, kernel: int, stride: int, before: int, dilation: int, mode: str = "zeros"
) -> SlidingAxis:
    """A convolution: one phase, with a run for each residue of the stride."""
    tap_step, spacing = stride // gcd(stride, dilation), dilation // gcd(stride, dilation)
    runs = [
        _run(size, out, stride, spacing, t, tap_step, -((t - kernel) // tap_step), t * dilation - before, mode)
        for t in range(min(kernel, tap_step))
    ]
    found = tuple(run for run in runs if run)
    return SlidingAxis(1, stride, spacing, tap_step, (SlidingPhase(0, out, found),) if found else ())


def backward_axis(size: int, out: int, kernel: int, stride: int, before: int, dilation: int) -> SlidingAxis:
    """A zero-padded convolution's gradient by its input: the stride phases, the taps of each last one first."""
    tap_step, spacing = stride // gcd(stride, dilation), dilation // gcd(stride, dilation)
    phases = []
    for t in range(min(kernel, tap_step)):
        r = (t * dilation - before) % stride
        if r < size:
            count, last = -((r - size) // stride), -((t - kernel) // tap_step) - 1
            origin = (r + before - t * dilation) // stride - last * spacing
            run = _run(out, count, 1, spacing, t + last * tap_step, -tap_step, last + 1, origin, "zeros")
            phases += [SlidingPhase(r, count, (run,))] if run else []
    return SlidingAxis(stride, 1, spacing, -tap_step, tuple(sorted(phases, key=lambda phase: phase.start)))


def _run(
    size: int, count: int, stride: int, spacing: int, tap: int, tap_step: int, taps: int, origin: int, mode: str
) -> TapRun | None:
    """A run without the taps at its ends that meet nothing but zeros; None if none is left."""

    def meets(u: int) -> bool:
        position = origin + u * spacing * stride
        return max(0, -(position // stride)) <= min(count - 1, (size - 1 - position) // stride)

    if mode == "zeros":
        used = [u for u in range(taps) if meets(u)]
        if not used:
            return None
        tap, origin, taps = tap + used[0] * tap_step, origin + used[0] * spacing * stride, used[-1] - used[0] + 1
    positions = count + (taps - 1) * spacing
    first = min(max(0, -(origin // stride)), positions)
    end = max(first, min(positions, (size - 1 - origin) // stride + 1))
    return TapRun(tap, taps, origin, first, end, lattice(origin, positions, stride, size, mode))


def lattice(origin: int, count: int, stride: int, size: int, mode: str) -> Positions:
    """What the positions origin, origin + stride, ... of a padded axis read."""
    return fold_back(origin + np.arange(count, dtype=np.intp) * stride, size, mode).astype(np.intp)


def links(axis: SlidingAxis, size: int) -> tuple[Positions, Positions, Positions]:
    """(ends, taps, sources): destination position i meets taps[e] at sources[e] for ends[i] <= e < ends[i + 1]."""
    met = [np.empty((3, 0), np.intp)]
    for phase in axis.phases:
        positions = phase.start + np.arange(phase.count) * axis.step
        for run in phase.runs:
            for u in range(run.taps):
                sources = run.table[u * axis.dilation :][: phase.count]
                triple = np.stack([positions, np.full(phase.count, run.tap + u * axis.tap_step), sources])
                met.append(triple[:, sources != PADDING])
    triples = np.concatenate(met, axis=1)
    positions, taps, sources = triples[:, np.lexsort((triples[1], triples[0]))]
    return np.searchsorted(positions, np.arange(size + 1)), taps, sources
