"""One layer of a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Size = tuple[int, ...]

OPERATORS = ("conv", "conv_transpose", "deform_conv", "max_pool", "avg_pool")
LAYOUTS = ("channels_first", "channels_last")


@dataclass(frozen=True)
class Layer:
    """A windowed operator at one batch size; every tuple has one element a spatial axis."""

    network: str
    layer: str
    operator: str
    batch: int
    in_channels: int
    out_channels: int
    size: Size
    kernel: Size
    stride: Size
    padding: tuple[tuple[int, int], ...]
    dilation: Size
    output_padding: Size
    groups: int = 1
    bias: bool = True
    ceil_mode: bool = False
    masked: bool = False  # of a deformable convolution: whether each sample has a weight of its own, as in v2
    times: int = 1  # how often the network has this very geometry

    @property
    def name(self) -> str:
        """What tables and filters call it, as `vgg16/conv1_2/b4`."""
        return f"{self.network}/{self.layer}/b{self.batch}"

    @property
    def ndim(self) -> int:
        return len(self.size)

    @property
    def pools(self) -> bool:
        return self.operator.endswith("pool")

    @property
    def deforms(self) -> bool:
        return self.operator == "deform_conv"

    @property
    def x_shape(self) -> Size:
        """Channels first."""
        return (self.batch, self.in_channels, *self.size)

    @property
    def weight_shape(self) -> Size:
        """(C_out, C_in / groups, *kernel), a transposed convolution's (C_in, C_out / groups, *kernel)."""
        first, second = self.out_channels, self.in_channels
        if self.operator == "conv_transpose":
            first, second = second, first
        return (first, second // self.groups, *self.kernel)

    @property
    def symmetric(self) -> bool:
        """Whether each axis is padded alike before and after, as PyTorch's operators want it."""
        return all(before == after for before, after in self.padding)

    @property
    def filters_images(self) -> bool:
        """Whether it is a filter on images of one channel, whose size it keeps."""
        one = self.operator == "conv" and self.in_channels == self.out_channels == 1 and self.ndim == 2
        kept = all(2 * before + 1 == k for (before, _), k in zip(self.padding, self.kernel, strict=True))
        return one and kept and self.symmetric and {*self.stride, *self.dilation} == {1}

    @property
    def geometry_key(self) -> Layer:
        """Equal for layers that do the same work, whichever network has them."""
        return replace(self, network="", layer="", bias=False, times=1)


def plain(values: tuple[Any, ...]) -> Any:
    """One number for all axes where they agree, as users write it."""
    return values[0] if len(set(values)) == 1 else values


def padding_argument(layer: Layer) -> Any:
    """A layer's padding as users write it: a number, one an axis, or pairs."""
    return plain(tuple(before for before, _ in layer.padding)) if layer.symmetric else layer.padding
