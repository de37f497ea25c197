"""Where each output position of a convolution finds its input, axis by axis: the index maps all macro-kernels share.

One map covers every stride, dilation and padding mode, so that macro-kernels have one loop for all of them; the
gradient with respect to the input is the same loop over maps of its stride phases.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from fastconv.geometry import ConvGeometry

PADDING = -1


@dataclass(frozen=True, slots=True)
class AxisSources:
    """The positions start, start + step, ... of a destination axis and what their taps read.

    `map[i, j]` is the source position that kernel tap `taps[i]` reads for the j-th destination position, or PADDING.
    """

    start: int
    step: int
    taps: tuple[int, ...]
    map: np.ndarray


def axis_map(
    size: int, out: int, kernel: int, stride: int, before: int, dilation: int, mode: str = "zeros"
) -> np.ndarray:
    """Source position of each tap and output position, int64[kernel][out]: o * stride + t * dilation - before.

    Positions outside 0 .. size - 1 become PADDING for mode "zeros" and fold back for reflect, replicate and circular.
    """
    position = np.arange(kernel, dtype=np.int64)[:, None] * dilation + np.arange(out, dtype=np.int64) * stride - before
    if mode == "reflect" and size > 1:
        position = np.abs((position + size - 1) % (2 * size - 2) - (size - 1))
    elif mode in ("replicate", "reflect"):
        position = np.clip(position, 0, size - 1)
    elif mode == "circular":
        position %= size
    else:
        position[(position < 0) | (position >= size)] = PADDING
    return np.ascontiguousarray(position)


def forward_sources(geometry: ConvGeometry, mode: str = "zeros") -> list[tuple[AxisSources, ...]]:
    """The one phase of a forward convolution: every output position, every tap."""
    g = geometry
    return [
        tuple(
            AxisSources(0, 1, tuple(range(k)), axis_map(i, o, k, s, p[0], d, mode))
            for i, o, k, s, p, d in zip(g.in_size, g.out_size, g.kernel, g.stride, g.padding, g.dilation, strict=True)
        )
    ]


def backward_input_sources(geometry: ConvGeometry) -> list[tuple[AxisSources, ...]]:
    """The stride phases of a zero-padded convolution's gradient with respect to its input.

    Input positions r, r + stride, ... meet the same taps, those t with (r + before - t * dilation) divisible by the
    stride, at output position (i + before - t * dilation) / stride: each phase is a small dense convolution of
    grad_y (Dumoulin & Visin 2016, section 4), and no product with a stuffed zero is computed.
    """
    g = geometry
    axes = [
        [_axis_phase(r, *axis) for r in range(min(axis[3], axis[0]))]
        for axis in zip(g.in_size, g.out_size, g.kernel, g.stride, (p[0] for p in g.padding), g.dilation, strict=True)
    ]
    return list(itertools.product(*axes))


def _axis_phase(r: int, size: int, out: int, kernel: int, stride: int, before: int, dilation: int) -> AxisSources:
    position = np.arange(r, size, stride, dtype=np.int64)
    taps = tuple(t for t in range(kernel) if (r + before - t * dilation) % stride == 0)
    source = (position + before - np.array(taps, dtype=np.int64)[:, None] * dilation) // stride
    source[(source < 0) | (source >= out)] = PADDING
    return AxisSources(r, stride, taps, np.ascontiguousarray(source.reshape(len(taps), len(position))))
