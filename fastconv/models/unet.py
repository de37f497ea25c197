"""U-Net, which joins what it sees at each size of the picture with what comes up from the smaller sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastconv import functional as F
from fastconv.geometry import as_int
from fastconv.layers import Identity, Layer, Parallel, Sequential
from fastconv.layers.base import Array
from fastconv.layers.fused import chain
from fastconv.models.kit import Kit


class UNet(Layer):
    """U-Net, x (N, C, H, W) -> logits of each pixel (N, classes, H, W); 31,036,546 parameters for 1 channel, 2 classes.

    Level 1 has the picture's size, each further one half of the size above it. On the way down d_1 = down1(x),
    d_l = downl(max_pool(d_(l-1))); on the way up u_L = d_L at the last level, u_l = joinl(d_l beside upl(u_(l+1)), as
    channels); the logits are classifier(u_1).

    Keys: down1, down2, ..., up4, join4, up3, ..., classifier. Each down and join is a Sequential of two 3x3
    convolutions, each followed by batch normalization and ReLU, each up a transposed convolution of 2x2 and stride 2.
    The paper's convolutions are neither padded nor normalized; these keep the size, so that nothing is cropped.

    Parameters
    ----------
    kit
        Makes the layers.
    in_channels, num_classes
        C and classes.
    widths
        Channels of each level, one or more. Default (64, 128, 256, 512, 1024), the paper's.

    Raises
    ------
    TypeError, ValueError
        If widths is empty or holds other things than positive integers.

    Source: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015, figure
    1; normalization: Çiçek et al., "3D U-Net: Learning Dense Volumetric Segmentation", 2016, section 2.
    """

    down1: Sequential

    def __init__(
        self, kit: Kit, in_channels: int, num_classes: int, widths: Sequence[int] = (64, 128, 256, 512, 1024)
    ) -> None:
        widths = [as_int(width, "widths", minimum=1) for width in widths]
        if not widths:
            raise ValueError("widths must be those of at least one level, got none")
        self.data_format, self.levels = kit.data_format, len(widths)
        for level, (channels, width) in enumerate(zip([in_channels, *widths], widths, strict=False), start=1):
            self.add_layer(f"down{level}", _convolutions(kit, channels, width))
        for level in range(self.levels - 1, 0, -1):
            width = widths[level - 1]
            self.add_layer(f"up{level}", kit.conv_transpose(widths[level], width, 2, stride=2))
            self.add_layer(f"join{level}", _convolutions(kit, 2 * width, width))
        self.pool = kit.max_pool(2)
        self.classifier = kit.conv(widths[0], num_classes, 1)

    @property
    def _axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def forward(self, x: Array) -> Array:
        self._check_size(x)
        skips: list[Array] = []
        for level in range(1, self.levels):
            skips.append(self._layers[f"down{level}"](x))
            x = self.pool(skips[-1])
        x = self._layers[f"down{self.levels}"](x)
        for level in range(self.levels - 1, 0, -1):
            x = F.concatenate((skips.pop(), self._layers[f"up{level}"](x)), self._axis)
            x = self._layers[f"join{level}"](x)
        y: Array = self.classifier(x)
        return y

    def backward(self, grad_y: Array) -> Array:
        grad_x: Array = self.down1.backward(self._backward(grad_y))
        return grad_x

    def backward_parameters(self, grad_y: Array) -> None:
        self.down1.backward_parameters(self._backward(grad_y))

    def _backward(self, grad_y: Array) -> Array:
        """The gradient of what down1 gives."""
        grad = self.classifier.backward(grad_y)
        grad_skips: list[Array] = []
        for level in range(1, self.levels):
            grad = self._layers[f"join{level}"].backward(grad)
            grad_skip, grad = F.split(grad, (grad.shape[self._axis] // 2,) * 2, self._axis)
            grad_skips.append(grad_skip)
            grad = self._layers[f"up{level}"].backward(grad)
        for level in range(self.levels, 1, -1):
            grad = self._layers[f"down{level}"].backward(grad)
            grad = F.add(self.pool.backward(grad), grad_skips.pop())
        return grad

    def for_inference(self) -> list[Layer]:
        return chain([self.nested()])

    def nested(self) -> Sequential:
        """Return the same layers in containers alone: each level has the one below it as a branch of a `Parallel`."""
        inner = self._layers[f"down{self.levels}"]
        for level in range(self.levels - 1, 0, -1):
            below = Sequential(self.pool, inner, self._layers[f"up{level}"])
            both = Parallel({"skip": Identity(), "below": below}, data_format=self.data_format)
            inner = Sequential(self._layers[f"down{level}"], both, self._layers[f"join{level}"])
        return Sequential(inner, self.classifier)

    def _check_size(self, x: Array) -> None:
        multiple, shape = 2 ** (self.levels - 1), np.shape(x)
        size = shape[1:-1] if self._axis == -1 else shape[2:]
        if len(size) != 2 or any(length % multiple for length in size):
            axes = "(N, H, W, C)" if self._axis == -1 else "(N, C, H, W)"
            raise ValueError(f"x must have shape {axes} with H and W multiples of {multiple}, got x.shape={shape}")


def _convolutions(kit: Kit, in_channels: int, width: int) -> Sequential:
    stages: dict[str, Layer] = {}
    for number, channels in ((0, in_channels), (3, width)):  # a ReLU of its own would come third, but is fused
        stages[str(number)] = kit.conv(channels, width, 3, padding=1, bias=False)
        stages[str(number + 1)] = kit.batch_norm(width, activation="relu")
    return Sequential(stages)
