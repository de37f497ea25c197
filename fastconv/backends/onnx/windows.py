"""ONNX's windows: kernel, strides, dilations and pads of an operator, and what they come to for a size of x.

Pads are given a side, all beginnings before all ends, or left to `auto_pad`: SAME_UPPER and SAME_LOWER give
ceil(in / stride) outputs, an odd total padding one more at the end or at the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastconv.backends.onnx.graph import Node

Size = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]

AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
NDIMS = (1, 2, 3)


@dataclass(frozen=True)
class Windows:
    """Windows over `ndim` spatial axes; `pads` are those that the node gives, whatever `auto_pad` says."""

    kernel: Size
    strides: Size
    dilations: Size
    pads: Pairs
    auto_pad: str
    ceil_mode: bool

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def extents(self) -> Size:
        """Positions from a window's first to its last tap."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def padding(self, in_size: Size) -> Pairs:
        """((before, after), ...) for an x of this size."""
        if self.auto_pad == "NOTSET":
            return self.pads
        if self.auto_pad == "VALID":
            return ((0, 0),) * self.ndim
        axes = zip(in_size, self.extents, self.strides, strict=True)
        return self.split(tuple(max(0, (-(-size // s) - 1) * s + extent - size) for size, extent, s in axes))

    def split(self, totals: Size) -> Pairs:
        """Total paddings as pairs; an odd one is larger at the end for SAME_UPPER, else at the beginning."""
        if self.auto_pad == "SAME_UPPER":
            return tuple((total // 2, total - total // 2) for total in totals)
        return tuple((total - total // 2, total // 2) for total in totals)

    def counts(self, in_size: Size) -> Size:
        """How many windows there are along each axis; with ceil_mode those that begin behind x and its padding before
        it are left out.

        Raises: ValueError where not a single window fits.
        """
        axes = zip(in_size, self.padding(in_size), self.extents, self.strides, strict=True)
        counts = tuple(self._count(size, *pair, extent, stride) for size, pair, extent, stride in axes)
        if min(counts) < 1:
            raise ValueError(
                f"windows of kernel_shape={self.kernel} and dilations={self.dilations} must fit into the input size "
                f"{in_size} with pads {self.padding(in_size)}"
            )
        return counts

    def _count(self, size: int, before: int, after: int, extent: int, stride: int) -> int:
        if self.auto_pad.startswith("SAME"):
            return -(-size // stride)
        room = size + before + after - extent
        if not self.ceil_mode:
            return room // stride + 1
        count = -(-room // stride) + 1
        return count - 1 if (count - 1) * stride >= size + before else count


def windows_of(node: Node, kernel: Size | None = None) -> Windows:
    """The windows of a node; `kernel` is that of its weight, which `kernel_shape` may repeat.

    Raises: ValueError that names the attribute, its value and what was expected.
    """
    if kernel is None:
        kernel = tuple(node.need("kernel_shape"))
    elif tuple(node.get("kernel_shape", kernel)) != kernel:
        raise ValueError(f"attribute kernel_shape must be {kernel}, the weight's, got {node.need('kernel_shape')}")
    ndim = len(kernel)
    if ndim not in NDIMS:
        raise ValueError(f"its windows must have 1 to 3 spatial axes, got kernel_shape={kernel}")
    auto_pad = node.get("auto_pad", "NOTSET") or "NOTSET"
    if auto_pad not in AUTO_PADS:
        raise ValueError(f"attribute auto_pad must be one of {', '.join(AUTO_PADS)}, got {auto_pad!r}")
    ones = (1,) * ndim
    return Windows(
        _sizes("kernel_shape", kernel, ndim, 1),
        _sizes("strides", node.get("strides", ones), ndim, 1),
        _sizes("dilations", node.get("dilations", ones), ndim, 1),
        as_pairs(node.get("pads", (0,) * 2 * ndim), ndim),
        auto_pad,
        bool(node.get("ceil_mode", 0)),
    )


def as_pairs(pads: Sequence[int], ndim: int) -> Pairs:
    """ONNX's pads, all beginnings before all ends, as ((before, after), ...)."""
    pads = _sizes("pads", pads, 2 * ndim, 0)
    return tuple(zip(pads[:ndim], pads[ndim:], strict=True))


def _sizes(name: str, values: Sequence[int], count: int, minimum: int) -> Size:
    if len(values) != count or min(values) < minimum:
        raise ValueError(f"attribute {name} must be {count} integers >= {minimum}, got {tuple(values)}")
    return tuple(values)
