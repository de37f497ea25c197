"""Pools of every kind for the tests: windows at the edges of vectors, and values with ties, NaN and infinities."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
from cases import Tile


@dataclass(frozen=True)
class Pool:
    """A pool of x (N, C, *size)."""

    x: tuple[int, ...]
    kernel_size: Any
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1
    ceil_mode: bool = False

    @property
    def ndim(self) -> int:
        return len(self.x) - 2

    @property
    def window(self) -> dict[str, Any]:
        """Arguments of max_pool."""
        return {**self.sums, "padding": self.padding, "dilation": self.dilation}

    @property
    def sums(self) -> dict[str, Any]:
        """Arguments of lp_pool."""
        return {"kernel_size": self.kernel_size, "stride": self.stride, "ceil_mode": self.ceil_mode}

    @property
    def taps(self) -> int:
        """Elements of a window."""
        return self.kernel_size**self.ndim if isinstance(self.kernel_size, int) else prod(self.kernel_size)


def _fixed(cases: dict[str, Pool]) -> dict[str, Callable[[int], Pool]]:
    return {name: lambda v, case=case: case for name, case in cases.items()}


# Cases are functions of VLEN, where rows (channels_first) and channels (channels_last) meet the edges of a kernel.
POOLS: dict[str, Callable[[int], Pool]] = {
    "outputs=VLEN-1": lambda v: Pool((2, 3, 5, v - 1 + 2), 3, 1),
    "outputs=VLEN": lambda v: Pool((1, v, 4, 2 * v), 2),
    "outputs=VLEN+1": lambda v: Pool((1, v + 1, 7, 2 * v + 1), 3, 2, 1),
    "outputs=2VLEN": lambda v: Pool((1, 2 * v, 6, 4 * v), 3, 2, 1),
    "outputs=2VLEN+1": lambda v: Pool((1, 4 * v + 1, 5, 4 * v + 3), (2, 3), 2, ceil_mode=True),
    "inner-blocks": lambda v: Pool((1, 2, 9, 9 * v + 5), 3, 2, 1),
    "inner-blocks-stride-1": lambda v: Pool((1, 2, 6, 5 * v + 5), 3, 1, 1),
    "same-rows=2VLEN-1": lambda v: Pool((3, 4, 5, 2 * v - 1), 3, 1, 1),
    "same-rows=2VLEN": lambda v: Pool((1, 2, 7, 2 * v), 3, 1, 1),
    "same-rows=2VLEN+1": lambda v: Pool((2, 3, 70, 2 * v + 1), 3, 1, 1),
    "same-rows=4VLEN": lambda v: Pool((1, 2, 40, 4 * v), (2, 5), 1, (1, 2)),
    "channels=VLEN-1": lambda v: Pool((2, v - 1, 6, 7), 3, 2, 1),
    "channels=4VLEN+VLEN+2": lambda v: Pool((1, 5 * v + 2, 5, 5), 2, 1),
    "global": lambda v: Pool((3, v + 3, 5, 7), (5, 7)),
    "global-many": lambda v: Pool((3, 2 * v - 1, v + 1), (v + 1,)),
    "wide": lambda v: Pool((1, 3, 6, 5 * v + 3), (2, v + 1), (3, v + 2)),
    "wide-few-outputs": lambda v: Pool((2, 3, 6, 4 * v), (3, v), (3, v)),
    **_fixed(
        {
            "one-element": Pool((1, 1, 1), 1),
            "one-pixel": Pool((3, 5, 1, 1), 3, 1, 1),
            "identity": Pool((2, 3, 4, 5), 1),
            "subsample": Pool((2, 3, 7, 9), 1, (3, 2)),
            "empty-batch": Pool((0, 3, 8, 8), 3, 2, 1),
            "1d": Pool((2, 5, 23), 3, 2, 1),
            "1d-stride-1": Pool((2, 4, 37), 2, 1, 1),
            "1d-long": Pool((1, 2, 9001), 3, 1, 1),
            "1d-long-stride-2": Pool((1, 2, 9002), 3, 2, 1, ceil_mode=True),
            "1d-long-stride-5": Pool((1, 2, 9003), 7, 5, 3),
            "1d-long-wide": Pool((1, 2, 9003), 300, 290),
            "1d-dilated": Pool((2, 3, 41), 3, 2, 1, 4),
            "2d-unequal-everything": Pool((2, 6, 15, 17), (3, 2), (2, 3), (1, 0), (2, 3)),
            "2d-pairs": Pool((2, 4, 9, 8), (3, 4), 2, ((1, 0), (0, 2))),
            "2d-same": Pool((2, 3, 6, 7), (3, 2), 1, "same"),
            "2d-same-5": Pool((2, 3, 9, 11), 5, 1, 2),
            "2d-same-dilated": Pool((2, 3, 9, 10), 2, 1, 1, 2),
            "2d-same-narrow": Pool((2, 40, 3, 2), 3, 1, 1),
            "2d-same-beyond-the-row": Pool((1, 3, 4, 5), (3, 9), (2, 1), (1, 4)),
            "2d-half-padding": Pool((2, 3, 6, 7), 4, 3, 2),
            "2d-ceil": Pool((2, 3, 6, 11), 3, 2, ceil_mode=True),
            "2d-ceil-drops-a-window": Pool((1, 2, 6, 6), 3, 3, 1, ceil_mode=True),
            "2d-ceil-padding": Pool((1, 2, 7, 8), 3, 2, 1, ceil_mode=True),
            "2d-stride-beyond-kernel": Pool((2, 3, 13, 14), 2, (5, 3)),
            "2d-stride-beyond-input": Pool((2, 3, 6, 5), 3, 100, 1),
            "2d-column": Pool((2, 3, 19, 5), (5, 1), (2, 1), (2, 0)),
            "2d-row": Pool((2, 3, 5, 19), (1, 5), (1, 2), (0, 2)),
            "2d-large-window": Pool((1, 3, 20, 21), 13, 1, 6),
            "2d-large-window-stride-2": Pool((1, 3, 20, 21), (5, 9), 2, (2, 4)),
            "2d-all-channels-in-one-vector": Pool((2, 2, 9, 10), 5, 1, 2),
            "2d-spans-the-width": Pool((2, 3, 9, 4), (2, 4)),
            "3d": Pool((2, 3, 5, 6, 7), 2),
            "3d-overlapping": Pool((1, 4, 6, 7, 8), 3, 2, 1),
            "3d-stride-1": Pool((1, 3, 4, 5, 18), 3, 1, 1),
            "3d-unequal-everything": Pool((1, 3, 7, 8, 9), (2, 3, 1), (1, 2, 3), (1, 1, 0), (3, 1, 2), ceil_mode=True),
            "3d-global": Pool((2, 5, 3, 4, 5), (3, 4, 5)),
            "3d-global-in-planes": Pool((2, 5, 4, 3, 5), (2, 3, 5)),
            "threaded": Pool((4, 20, 56, 57), 3, 2, 1),
            "threaded-2x2": Pool((4, 20, 56, 58), 2),
            "threaded-few-planes": Pool((1, 1, 600, 601), 3, 1, 1),
            "threaded-channels": Pool((1, 3000, 9, 9), 9),
            "threaded-1d": Pool((2, 3, 60000), 4, 3),
            "threaded-3d": Pool((2, 9, 17, 18, 19), 3, 2, 1),
        }
    ),
}
LARGE = [name for name in POOLS if name.startswith("threaded")]
SMALL = [name for name in POOLS if name not in LARGE]  # one thread runs them, whatever is allowed


def case_of(name: str, dtype: str) -> Pool:
    return POOLS[name](Tile.current(dtype).vlen)


def undilated(case: Pool) -> Pool:
    return Pool(case.x, case.kernel_size, case.stride, case.padding, 1, case.ceil_mode)


def operator(module: Any, name: str, ndim: int, suffix: str = "") -> Callable[..., Any]:
    return getattr(module, f"{name}{ndim}d{suffix}")


@cache
def rough(shape: tuple[int, ...]) -> np.ndarray:
    """Few different values, so that there are ties; infinities and NaN among them."""
    rng = np.random.default_rng(shape)
    x = rng.integers(-3, 4, shape).astype(float)
    kind = rng.random(shape)
    x[kind < 0.15], x[kind > 0.99], x[(kind > 0.97) & (kind < 0.98)] = -np.inf, np.nan, np.inf
    x.flags.writeable = False
    return x


@cache
def whole(shape: tuple[int, ...]) -> np.ndarray:
    """Small whole numbers, whose sums are exact in any order."""
    drawn = np.random.default_rng(shape).integers(-8, 9, shape).astype(float)
    drawn.flags.writeable = False
    return drawn
