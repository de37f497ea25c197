"""Named geometries of convolutions: where kernels have edges, and where networks live.

A kernel's edges lie where its register tile ends, and that differs by ISA and dtype; so a case is a function of the
tile in use. Everything that checks a convolution takes a `Conv` or a `ConvTranspose`, whoever names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import Any

import numpy as np

from fastconv.geometry import ConvGeometry, conv_geometry, conv_transpose_geometry
from fastconv.kernels import core

Size = tuple[int, ...]
LAYOUTS = ("channels_first", "channels_last")
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Tile:
    """The register tile of the ISA in use: rows, columns and elements of a vector."""

    mr: int
    nr: int
    vlen: int

    @classmethod
    def current(cls, dtype: str) -> Tile:
        return cls(**core.register_tile(dtype))


@dataclass(frozen=True)
class Conv:
    """A convolution: x (N, C_in, *size), weight (C_out, C_in / groups, *kernel) and its parameters."""

    x: Size
    weight: Size
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    padding_mode: str = "zeros"

    @property
    def ndim(self) -> int:
        return len(self.weight) - 2

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the operator."""
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups", "padding_mode")}

    @cached_property
    def geometry(self) -> ConvGeometry:
        return conv_geometry(self.x, self.weight, ndim=self.ndim, **self.options)

    @property
    def channels(self) -> int:
        """Of y."""
        return self.weight[0]

    @property
    def y(self) -> Size:
        """Shape of y, channels first."""
        return self.geometry.y_shape


@dataclass(frozen=True)
class ConvTranspose:
    """A transposed convolution: x (N, C_in, *size), weight (C_in, C_out / groups, *kernel) and its parameters."""

    x: Size
    weight: Size
    stride: Any = 1
    padding: Any = 0
    output_padding: Any = 0
    groups: int = 1
    dilation: Any = 1

    @property
    def ndim(self) -> int:
        return len(self.weight) - 2

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the operator."""
        return {name: getattr(self, name) for name in ("stride", "padding", "output_padding", "groups", "dilation")}

    @cached_property
    def geometry(self) -> ConvGeometry:
        """That of the convolution whose input gradient this is."""
        return conv_transpose_geometry(self.x, self.weight, ndim=self.ndim, **self.options)

    @property
    def channels(self) -> int:
        """Of y."""
        return self.weight[1] * self.groups

    @property
    def y(self) -> Size:
        """Shape of y, channels first."""
        return self.geometry.x_shape


def multiply_adds(case: Conv | ConvTranspose) -> int:
    """Products of a case, those with padding included."""
    g = case.geometry
    return g.batch * prod(g.out_size) * prod(g.weight_shape)


@cache
def values(shape: Size, seed: int) -> np.ndarray:
    """Of random sign and a magnitude of 1/2 to 1, exact in float32.

    No product is smaller than a quarter of the largest, so that each one that is missing or doubled shows.
    """
    rng = np.random.default_rng([seed, *shape])
    drawn = rng.choice([-1, 1], shape) * rng.uniform(0.5, 1, shape)
    drawn = drawn.astype(np.float32).astype(np.float64)
    drawn.flags.writeable = False
    return drawn


def laid_out(a: np.ndarray, data_format: str, dtype: str) -> np.ndarray:
    """An activation (N, C, *size) as a fresh contiguous array in a layout and dtype."""
    a = a if data_format == "channels_first" else np.moveaxis(a, 1, -1)
    return np.array(a, dtype, order="C")


# Numbers of channels and pixels about which a kernel changes its mind.
EDGES: dict[str, Callable[[Tile], int]] = {
    "1": lambda t: 1,
    "MR-1": lambda t: t.mr - 1,
    "MR": lambda t: t.mr,
    "MR+1": lambda t: t.mr + 1,
    "VLEN-1": lambda t: t.vlen - 1,
    "VLEN+1": lambda t: t.vlen + 1,
    "NR-1": lambda t: t.nr - 1,
    "NR": lambda t: t.nr,
    "NR+1": lambda t: t.nr + 1,
    "2NR+1": lambda t: 2 * t.nr + 1,
}


def _at_edges(name: str, case: Callable[[int], Any]) -> dict[str, Callable[[Tile], Any]]:
    return {name.format(edge): cache(lambda t, n=number: case(n(t))) for edge, number in EDGES.items()}


def _fixed(cases: dict[str, Any]) -> dict[str, Callable[[Tile], Any]]:
    return {name: lambda t, case=case: case for name, case in cases.items()}


CONV: dict[str, Callable[[Tile], Conv]] = {
    **_at_edges("out_channels={}", lambda n: Conv((2, 3, 4, 5), (n, 3, 3, 3), padding=1)),
    **_at_edges("in_channels={}", lambda n: Conv((2, n, 5, 4), (5, n, 3, 2), padding=(1, 0))),
    **_at_edges("pixels={}", lambda n: Conv((2, 9, n + 2), (7, 9, 3))),
    **_at_edges("row={}", lambda n: Conv((1, 2, 4, n), (3, 2, 3, 3), padding=1)),
    **_at_edges("pointwise-pixels={}", lambda n: Conv((3, 8, 1, n), (9, 8, 1, 1))),
    **_at_edges("groups-of={}", lambda n: Conv((1, 2 * n, 3, 3), (2 * n, n, 2, 2), groups=2, padding=1)),
    **_fixed(
        {
            # every number 1, and nothing at all
            "single-product": Conv((1, 1, 1), (1, 1, 1)),
            "one-pixel-plane": Conv((3, 5, 1, 1), (4, 5, 3, 3), padding=1),
            "one-pixel-volume": Conv((2, 2, 1, 1, 1), (3, 2, 1, 1, 1)),
            "empty-batch-1d": Conv((0, 3, 8), (4, 3, 3)),
            "empty-batch-2d": Conv((0, 3, 8, 8), (4, 3, 3, 3), stride=2, padding=1),
            "empty-batch-3d": Conv((0, 2, 4, 4, 4), (3, 2, 2, 2, 2)),
            # one spatial axis
            "1d": Conv((2, 4, 23), (6, 4, 5)),
            "1d-strided-dilated": Conv((2, 4, 40), (6, 4, 5), stride=3, dilation=4, padding=7),
            "1d-long-row": Conv((1, 1, 5003), (2, 1, 9), padding=4),
            "1d-long-strided-row": Conv((1, 1, 4001), (3, 1, 80), stride=4, padding=38),
            "1d-causal": Conv((2, 5, 31), (4, 5, 3), dilation=4, padding=((8, 0),)),
            "1d-dilation-leaves-one-output": Conv((1, 2, 101), (3, 2, 3), dilation=50),
            # two
            "2d": Conv((2, 5, 11, 13), (7, 5, 3, 3)),
            "2d-unequal-everything": Conv((2, 4, 14, 17), (6, 4, 2, 3), stride=(2, 3), padding=(1, 4), dilation=(3, 2)),
            "2d-asymmetric-padding": Conv((2, 3, 7, 6), (4, 3, 3, 4), padding=((0, 2), (3, 1))),
            "2d-asymmetric-strided": Conv((2, 3, 9, 10), (4, 3, 3, 3), padding=((1, 0), (0, 2)), stride=2),
            "2d-same-odd-total": Conv((2, 3, 6, 7), (4, 3, 4, 2), padding="same", dilation=(1, 3)),
            "2d-padding-beyond-kernel": Conv((1, 3, 4, 3), (4, 3, 2, 2), padding=(5, 3)),
            "2d-padding-beyond-kernel-strided": Conv((1, 9, 3, 4), (4, 9, 2, 2), padding=4, stride=3),
            "2d-kernel-is-input": Conv((3, 6, 5, 7), (8, 6, 5, 7)),
            "2d-kernel-is-padded-input": Conv((2, 3, 3, 4), (4, 3, 5, 6), padding=1),
            "2d-stride-beyond-kernel": Conv((2, 4, 13, 14), (5, 4, 2, 2), stride=(5, 4)),
            "2d-stride-beyond-input": Conv((2, 4, 6, 6), (5, 4, 3, 3), stride=(100, 7), padding=1),
            "2d-strided-columns": Conv((1, 18, 5, 6), (5, 18, 3, 3), padding=1, stride=(1, 2)),
            "2d-strided-rows": Conv((1, 7, 10, 9), (5, 7, 3, 4), padding=1, stride=(2, 1)),
            "2d-strided-pointwise": Conv((2, 9, 9, 8), (10, 9, 1, 1), stride=2),
            "2d-padded-pointwise": Conv((2, 9, 4, 5), (3, 9, 1, 1), padding=1, stride=(1, 2)),
            "2d-tall": Conv((1, 2, 70, 3), (3, 2, 5, 3), padding=1),
            "2d-wide": Conv((1, 2, 3, 70), (3, 2, 3, 5), padding=1),
            "2d-row-kernel": Conv((1, 4, 5, 19), (4, 4, 1, 7), padding=(0, 3)),
            "2d-column-kernel": Conv((1, 4, 19, 5), (4, 4, 7, 1), padding=(3, 0)),
            "2d-dilated-into-padding": Conv((1, 3, 5, 5), (4, 3, 3, 3), dilation=5, padding=5),
            "2d-small-planes-cross-images": Conv((5, 9, 7, 7), (13, 9, 3, 3), padding=1),
            "2d-small-planes-strided": Conv((5, 8, 7, 7), (9, 8, 3, 3), padding=1, stride=2),
            "2d-alexnet-first-layer": Conv((1, 3, 31, 27), (8, 3, 11, 11), stride=4, padding=2),
            # three
            "3d": Conv((2, 3, 5, 6, 7), (4, 3, 3, 2, 3), padding=(1, 0, 1)),
            "3d-unequal-everything": Conv(
                (1, 2, 7, 9, 8), (3, 2, 2, 3, 2), stride=(1, 2, 3), padding=(2, 1, 0), dilation=(3, 1, 2)
            ),
            "3d-grouped": Conv((2, 6, 3, 4, 5), (4, 3, 2, 2, 2), groups=2, padding=1),
            "3d-depthwise": Conv((1, 5, 4, 5, 6), (5, 1, 3, 3, 3), groups=5, padding=1),
            "3d-asymmetric-padding": Conv((1, 2, 3, 4, 5), (3, 2, 3, 3, 3), padding=((2, 0), (0, 2), (1, 3))),
            # groups
            "groups": Conv((2, 12, 6, 5), (15, 4, 3, 3), groups=3, padding=1),
            "groups-of-many-to-one": Conv((2, 12, 6, 5), (3, 4, 3, 3), groups=3),
            "depthwise": Conv((2, 19, 7, 8), (19, 1, 3, 3), groups=19, padding=1),
            "depthwise-strided-dilated": Conv((1, 7, 12, 11), (7, 1, 3, 3), groups=7, stride=2, dilation=2, padding=2),
            "depthwise-7x7": Conv((1, 6, 9, 10), (6, 1, 7, 7), groups=6, padding=3),
            "depthwise-multiplier": Conv((2, 5, 6, 7), (15, 1, 3, 3), groups=5, padding=1),
            "depthwise-1d": Conv((2, 9, 33), (9, 1, 5), groups=9, padding=2),
            # what the padding holds
            "reflect": Conv((2, 3, 5, 6), (4, 3, 3, 4), padding=((3, 1), (2, 5)), padding_mode="reflect"),
            "replicate": Conv((2, 3, 4, 3), (4, 3, 3, 3), padding=(6, 2), padding_mode="replicate", stride=2),
            "circular": Conv((2, 3, 5, 4), (4, 3, 3, 3), padding=((5, 0), (2, 4)), padding_mode="circular"),
            "reflect-1d-dilated": Conv((2, 9, 11), (4, 9, 3), padding=6, dilation=3, padding_mode="reflect"),
            "replicate-3d": Conv((1, 2, 2, 3, 2), (3, 2, 3, 3, 3), padding=2, padding_mode="replicate"),
            "circular-grouped": Conv((1, 6, 6, 7), (4, 3, 3, 3), padding=2, padding_mode="circular", groups=2),
            "circular-same-depthwise": Conv(
                (1, 4, 6, 7), (4, 1, 3, 2), padding="same", padding_mode="circular", groups=4
            ),
            # enough for several threads, blocks of channels and stretches of shared panels
            "many-channels": Conv((1, 700, 6, 7), (37, 700, 3, 3), padding=1),
            "many-channels-pointwise": Conv((1, 1300, 5, 5), (49, 1300, 1, 1)),
            "shared-stretches": Conv((1, 256, 32, 32), (48, 256, 3, 3), padding=1),
            "shared-small-planes": Conv((3, 80, 7, 7), (150, 80, 3, 3), padding=1),
            "threaded-strided": Conv((2, 33, 21, 22), (70, 33, 3, 3), stride=2, padding=1),
            "threaded-grouped": Conv((3, 36, 13, 17), (60, 12, 3, 3), groups=3, padding=1),
            "threaded-depthwise": Conv((2, 65, 40, 33), (65, 1, 3, 3), groups=65, padding=1),
            "threaded-first-layer": Conv((1, 3, 61, 67), (24, 3, 5, 5), padding=2),
            "threaded-1d": Conv((2, 24, 900), (25, 24, 5), dilation=2, padding=4),
            "threaded-3d": Conv((1, 12, 9, 10, 11), (20, 12, 3, 3, 3), padding=1),
            "threaded-replicate": Conv((2, 24, 17, 19), (24, 24, 3, 3), padding=2, padding_mode="replicate"),
        }
    ),
}


def depthwise(x: Size, kernel: Size, ways: int = 1, **options: Any) -> Conv:
    """A convolution with a group for each channel of x, `ways` outputs a channel."""
    return Conv(x, (x[1] * ways, 1, *kernel), groups=x[1], **options)


# More of groups of one channel: channels fill vectors, or columns of planes do where there are few.
DEPTHWISE: dict[str, Callable[[Tile], Conv]] = {
    **{
        f"{axis}={edge}": lambda t, case=case, number=number: case(number(t))
        for edge, number in (EDGES | {"VLEN": lambda t: t.vlen}).items()
        if "MR" not in edge
        for axis, case in {
            "channels": lambda n: depthwise((2, n, 6, 5), (3, 3), padding=1),
            "channels-by-two": lambda n: depthwise((1, n, 6, 5), (3, 2), 2, padding=1, stride=2),
            "row": lambda n: depthwise((2, 1, 40, n + 2), (3, 3)),
            "row-1d": lambda n: depthwise((2, 2, n + 2), (3,)),
            "column": lambda n: depthwise((1, 2, n, 33), (5, 3), padding=(2, 1)),
        }.items()
    },
    **_fixed(
        {
            "single-product": depthwise((1, 1, 1), (1,)),
            "one-channel-three-outputs": depthwise((2, 1, 9, 8), (3, 3), 3, padding=1),
            "empty-batch": depthwise((0, 7, 8, 8), (3, 3), padding=1),
            "one-pixel": depthwise((3, 18, 1, 1), (3, 3), padding=1),
            "kernel-is-input": depthwise((3, 18, 5, 7), (5, 7)),
            "pointwise": depthwise((2, 9, 6, 7), (1, 1), 3),
            "strided-pointwise": depthwise((2, 9, 9, 8), (1, 1), stride=2),
            # one spatial axis
            "1d-causal": depthwise((2, 5, 131), (4,), dilation=8, padding=((24, 0),)),
            "1d-long": depthwise((1, 3, 5003), (9,), padding=4),
            "1d-long-strided": depthwise((1, 3, 4001), (80,), stride=4, padding=38),
            "1d-strided-dilated": depthwise((2, 19, 200), (5,), 2, stride=3, dilation=4, padding=7),
            # two: small planes are turned, large ones are not
            "3x3": depthwise((2, 33, 7, 7), (3, 3), padding=1),
            "3x3-large": depthwise((1, 3, 57, 61), (3, 3), padding=1),
            "3x3-strided": depthwise((2, 33, 14, 15), (3, 3), padding=1, stride=2),
            "3x3-large-strided": depthwise((1, 3, 57, 61), (3, 3), padding=1, stride=2),
            "5x5-strided": depthwise((1, 4, 50, 49), (5, 5), padding=2, stride=(2, 3)),
            "7x7": depthwise((1, 18, 20, 21), (7, 7), padding=3),
            "7x7-large-by-two": depthwise((1, 3, 40, 41), (7, 7), 2, padding=3),
            "31x31": depthwise((1, 3, 36, 40), (31, 31), padding=15),
            "unequal-everything": depthwise((2, 5, 44, 47), (2, 3), 3, stride=(2, 3), padding=(1, 4), dilation=(3, 2)),
            "asymmetric": depthwise((2, 19, 9, 10), (3, 4), padding=((1, 0), (0, 3)), stride=(1, 2)),
            "asymmetric-large": depthwise((1, 2, 60, 50), (3, 4), padding=((1, 0), (0, 3)), stride=(1, 2)),
            "padding-beyond-kernel": depthwise((1, 9, 4, 3), (2, 2), padding=(5, 3)),
            "padding-beyond-kernel-strided": depthwise((1, 9, 30, 40), (2, 2), padding=8, stride=3),
            "stride-beyond-kernel": depthwise((2, 9, 43, 34), (2, 2), stride=(5, 4)),
            "stride-beyond-input": depthwise((2, 9, 6, 6), (3, 3), stride=(100, 7), padding=1),
            "dilated": depthwise((1, 5, 40, 37), (3, 3), dilation=(2, 5), padding=4),
            "dilated-strided": depthwise((1, 5, 40, 37), (4, 3), dilation=4, stride=6, padding=4),
            "dilated-into-padding": depthwise((1, 9, 5, 5), (3, 3), dilation=5, padding=5),
            "wide": depthwise((1, 2, 2, 700), (2, 5), padding=(0, 2)),
            "tall": depthwise((1, 2, 700, 2), (5, 2), padding=(2, 0)),
            # three
            "3d": depthwise((2, 9, 5, 6, 7), (3, 2, 3), 2, padding=(1, 0, 1)),
            "3d-large": depthwise((1, 2, 11, 13, 17), (3, 3, 3), padding=1),
            "3d-unequal-everything": depthwise(
                (1, 5, 13, 14, 15), (2, 3, 2), 2, stride=(1, 2, 3), padding=(2, 1, 0), dilation=(3, 1, 2)
            ),
            # what the padding holds
            **{
                f"{mode}{suffix}": case(mode)
                for mode in ("reflect", "replicate", "circular")
                for suffix, case in {
                    "": lambda mode: depthwise((2, 9, 7, 6), (3, 4), padding=((3, 1), (2, 5)), padding_mode=mode),
                    "-large-strided": lambda mode: depthwise(
                        (1, 3, 41, 39), (5, 3), 2, stride=(2, 3), padding=(6, 2), padding_mode=mode
                    ),
                    "-1d-dilated": lambda mode: depthwise((2, 5, 120), (3,), dilation=7, padding=9, padding_mode=mode),
                    "-3d": lambda mode: depthwise((1, 5, 4, 3, 5), (3, 2, 3), padding=(2, 1, 2), padding_mode=mode),
                }.items()
            },
            # enough for several threads
            "threaded": depthwise((2, 65, 40, 33), (3, 3), padding=1),
            "threaded-by-two": depthwise((3, 65, 24, 23), (5, 3), 2, padding=1, stride=2),
            "threaded-turned": depthwise((4, 150, 14, 14), (5, 5), padding=2),
            "threaded-few-planes": depthwise((1, 2, 200, 210), (5, 5), padding=2),
            "threaded-1d": depthwise((2, 24, 3000), (9,), dilation=2, padding=8),
            "threaded-3d": depthwise((1, 24, 12, 13, 14), (3, 3, 3), padding=1),
            "threaded-circular": depthwise((2, 40, 37, 35), (3, 3), padding=2, padding_mode="circular"),
        }
    ),
}

CONV_TRANSPOSE: dict[str, Callable[[Tile], ConvTranspose]] = {
    **_at_edges("out_channels={}", lambda n: ConvTranspose((2, 3, 4, 5), (3, n, 3, 3), stride=2, padding=1)),
    **_at_edges("in_channels={}", lambda n: ConvTranspose((2, n, 5, 4), (n, 5, 3, 2), stride=(1, 2))),
    **_at_edges("pixels={}", lambda n: ConvTranspose((2, 9, n), (9, 7, 2), stride=2)),
    **_fixed(
        {
            "single-product": ConvTranspose((1, 1, 1), (1, 1, 1)),
            "one-pixel": ConvTranspose((2, 5, 1, 1), (5, 3, 4, 4)),
            "empty-batch": ConvTranspose((0, 4, 5, 6), (4, 3, 3, 3), stride=2, output_padding=1),
            "1d": ConvTranspose((2, 4, 9), (4, 3, 5)),
            "1d-strided-dilated": ConvTranspose((2, 4, 9), (4, 3, 4), stride=3, dilation=2, padding=2),
            "2d": ConvTranspose((2, 5, 6, 7), (5, 4, 3, 3)),
            "2d-same": ConvTranspose((2, 5, 6, 7), (5, 4, 3, 4), padding="same"),
            "2d-doubling": ConvTranspose((2, 6, 5, 7), (6, 4, 4, 4), stride=2, padding=1),
            "2d-output-padding": ConvTranspose(
                (2, 4, 5, 6), (4, 3, 3, 3), stride=(2, 3), padding=1, output_padding=(1, 2)
            ),
            "2d-output-padding-beyond-stride": ConvTranspose(
                (2, 4, 5, 6), (4, 3, 3, 2), stride=(1, 2), dilation=(4, 3), output_padding=(3, 2)
            ),
            "2d-unequal-everything": ConvTranspose(
                (2, 4, 5, 6), (4, 3, 2, 3), stride=(3, 2), padding=(1, 2), dilation=(2, 3), output_padding=(2, 0)
            ),
            "2d-asymmetric-padding": ConvTranspose((1, 3, 6, 5), (3, 4, 4, 3), padding=((0, 3), (2, 1)), stride=2),
            "2d-padding-beyond-kernel": ConvTranspose((1, 3, 9, 8), (3, 4, 2, 2), padding=(3, 2)),
            "2d-padding-cuts-to-one": ConvTranspose((1, 3, 4, 4), (3, 4, 3, 3), stride=2, padding=4),
            "2d-stride-beyond-kernel": ConvTranspose((2, 4, 4, 3), (4, 3, 2, 2), stride=(5, 3)),
            "2d-stride-beyond-input": ConvTranspose((1, 2, 1, 2), (2, 3, 3, 2), stride=(50, 41)),
            "2d-pointwise": ConvTranspose((2, 9, 5, 6), (9, 7, 1, 1)),
            "2d-strided-pointwise": ConvTranspose((2, 9, 5, 6), (9, 7, 1, 1), stride=2, output_padding=1),
            "2d-small-planes": ConvTranspose((5, 9, 3, 3), (9, 7, 3, 3), stride=2, padding=1),
            "3d": ConvTranspose((1, 3, 3, 4, 3), (3, 4, 3, 2, 3), stride=(2, 1, 2), padding=(1, 0, 1)),
            "3d-unequal-everything": ConvTranspose(
                (2, 2, 3, 2, 3), (2, 3, 2, 3, 2), stride=(3, 1, 2), dilation=(1, 2, 3), output_padding=(2, 1, 2)
            ),
            "groups": ConvTranspose((2, 6, 4, 5), (6, 4, 3, 3), groups=3, stride=2, padding=1, output_padding=1),
            "depthwise": ConvTranspose((2, 7, 4, 5), (7, 1, 3, 3), groups=7, stride=2),
            "depthwise-multiplier": ConvTranspose((1, 5, 4, 5), (5, 2, 3, 3), groups=5, padding=1),
            "many-channels": ConvTranspose((1, 700, 5, 4), (700, 30, 3, 3), stride=2, padding=1),
            "threaded": ConvTranspose((2, 40, 12, 13), (40, 50, 4, 4), stride=2, padding=1),
            "threaded-dense": ConvTranspose((2, 40, 19, 13), (40, 50, 3, 3), padding=1),
            "threaded-3d": ConvTranspose((1, 12, 5, 6, 7), (12, 20, 3, 3, 3), stride=2),
        }
    ),
}


# Those large enough for a team of threads, on some ISA or in some dtype or layout; a test holds the others to one.
LARGE_CONV = [name for name in CONV if name.startswith(("threaded", "many", "shared"))] + ["groups-of=2NR+1"]
LARGE_CONV_TRANSPOSE = [name for name in CONV_TRANSPOSE if name.startswith(("threaded", "many"))]
