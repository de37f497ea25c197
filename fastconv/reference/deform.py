"""Deformable convolution: every tap of every output samples where its offset says."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastconv.reference.activation import activate
from fastconv.reference.conv import add_bias, at_tap, bias_gradient, columns, merge, split, split_weight
from fastconv.reference.windows import FIRST, Array, Gradients, Layout, Size, as_pairs, each


def _corners(size: Size, y: Array, x: Array) -> Iterator[tuple[Array, Array, Array, Array]]:
    """The four pixels around each point: flat index, weight, and the weight's slopes by y and by x.

    A pixel outside the image has the index H * W, where callers keep a zero. A point with y <= -1, y >= H,
    x <= -1 or x >= W has no pixel in the image (a NaN neither); on -1 itself the weight is 0 but the slope is
    that of the right-hand side, as in torchvision.
    """
    h, w = size
    y, x = np.where((y >= -1) & (y < h), y, -2), np.where((x >= -1) & (x < w), x, -2)
    for right_y, right_x in np.ndindex(2, 2):
        row, column = np.floor(y) + right_y, np.floor(x) + right_x
        weight_y, weight_x = 1 - np.abs(y - row), 1 - np.abs(x - column)
        exists = (row >= 0) & (row < h) & (column >= 0) & (column < w)
        pixel = np.where(exists, row * w + column, h * w).astype(np.intp)
        yield pixel, weight_y * weight_x, (2 * right_y - 1) * weight_x, (2 * right_x - 1) * weight_y


class _Deformation:
    """What the taps sample and weigh; the n-dimensional axes are flattened to taps and to pixels.

    w[groups][F][C][taps], mask[N][offset groups][taps][1][outputs], and of x, with a zero after its last pixel,
    pixels[N][offset groups][C][H * W + 1].
    """

    def __init__(
        self, x: Array, offset: Array, weight: Array, stride: Any, padding: Any, dilation: Any, mask: Array | None
    ) -> None:
        self.size, self.kernel, self.out = x.shape[2:], weight.shape[2:], offset.shape[2:]
        self.stride, self.dilation = each(stride, 2), each(dilation, 2)
        self.pads = as_pairs(padding, self.kernel, self.stride, self.dilation)
        self.taps, self.outputs = math.prod(self.kernel), math.prod(self.out)
        w = split_weight(weight, x.shape[1] // weight.shape[1])
        self.w = w.reshape(*w.shape[:3], self.taps)
        per_group = (x.shape[0], offset.shape[1] // (2 * self.taps))
        self.offset = offset.reshape(*per_group, self.taps, 2, *self.out)
        mask = np.ones((*per_group, self.taps, *self.out), x.dtype) if mask is None else mask
        self.mask = mask.reshape(*per_group, self.taps, 1, self.outputs)
        pixels = x.reshape(*per_group, x.shape[1] // per_group[1], math.prod(self.size))
        self.pixels = np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=-1)

    def corners(self, tap: int) -> list[tuple[Array, Array, Array, Array]]:
        """The corners of this tap's points, o * stride - padding + t * dilation + offset for every output o."""
        points = []
        for axis, t in enumerate(np.unravel_index(tap, self.kernel)):
            grid = np.arange(self.out[axis]) * self.stride[axis] - self.pads[axis][0] + t * self.dilation[axis]
            point = self.offset[:, :, tap, axis] + grid.reshape((-1, 1) if axis == 0 else (1, -1))
            points.append(point.astype(self.offset.dtype).reshape(*point.shape[:2], 1, self.outputs))
        return list(_corners(self.size, *points))

    def read(self, pixel: Array) -> Array:
        return np.take_along_axis(self.pixels, pixel, axis=-1)

    def sample(self, corners: list[tuple[Array, Array, Array, Array]]) -> Any:
        return sum(weight * self.read(pixel) for pixel, weight, _, _ in corners)

    def by_group(self, sample: Array) -> Array:
        """From offset groups to the weight's: (N, offset groups, C, outputs) -> (N, groups, C, outputs)."""
        return sample.reshape(sample.shape[0], self.w.shape[0], self.w.shape[2], self.outputs)


def deform_conv2d(
    x: Array, offset: Array, weight: Array, bias: Array | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, mask: Array | None = None, *, activation: str | None = None, data_format: str = FIRST,
) -> Array:  # fmt: skip
    """y[n,f,o] = bias[f] + sum over c, t of weight[f,c,t] mask[n,t,o] x[n,c,p], p = the point of tap t at output o.

    p = o * stride - padding + t * dilation + offset[n,t,o]; x is bilinear between pixels and 0 outside. offset has
    the channels (offset group, tap, (y, x)), mask (offset group, tap). Source: Dai et al., Deformable Convolutional
    Networks (2017); Zhu et al., Deformable ConvNets v2 (2018); channel order and borders are torchvision's.
    """
    layout = Layout(x, 2, data_format)
    x, offset, mask = layout.enter(x), layout.enter(offset), None if mask is None else layout.enter(mask)
    d = _Deformation(x, offset, weight, stride, padding, dilation, mask)
    y = np.zeros((x.shape[0], *d.w.shape[:2], *d.out), x.dtype)
    for tap in range(d.taps):
        sample = d.sample(d.corners(tap)) * d.mask[:, :, tap]
        y += (at_tap(d.w, (..., tap)) @ d.by_group(sample)).reshape(y.shape)
    return layout.leave(activate(add_bias(merge(y), bias), activation))


def deform_conv2d_backward(
    grad_y: Array, x: Array, offset: Array, weight: Array, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    mask: Array | None = None, need: tuple[bool, ...] = (True,) * 5, data_format: str = FIRST,
) -> Gradients:  # fmt: skip
    """Gradients of `deform_conv2d` by x, offset, weight, bias and mask (None without a mask)."""
    layout, masked = Layout(x, 2, data_format), mask is not None
    grad_y, x, offset = (layout.enter(a) for a in (grad_y, x, offset))
    d = _Deformation(x, offset, weight, stride, padding, dilation, None if mask is None else layout.enter(mask))
    g = columns(split(grad_y, d.w.shape[0]))
    grad_pixels, grad_offset, grad_w, grad_mask = (np.zeros_like(a) for a in (d.pixels, d.offset, d.w, d.mask))
    n, group, channel, _ = np.ogrid[tuple(map(slice, d.pixels.shape))]
    for tap in range(d.taps):
        corners = d.corners(tap)
        sample = d.sample(corners)
        grad_w[..., tap] = (g @ d.by_group(sample * d.mask[:, :, tap]).swapaxes(2, 3)).sum(0)
        grad_sample = (at_tap(d.w, (..., tap)).swapaxes(1, 2) @ g).reshape(sample.shape)
        grad_mask[:, :, tap] = (grad_sample * sample).sum(2, keepdims=True)
        grad_sample *= d.mask[:, :, tap]
        for pixel, share, *slopes in corners:
            np.add.at(grad_pixels, (n, group, channel, pixel), grad_sample * share)
            for axis, slope in enumerate(slopes):
                by_point = (grad_sample * slope * d.read(pixel)).sum(2)
                grad_offset[:, :, tap, axis] += by_point.reshape(*by_point.shape[:2], *d.out)
    gradients = (
        layout.leave(grad_pixels[..., :-1].reshape(x.shape)),
        layout.leave(grad_offset.reshape(offset.shape)),
        grad_w.reshape(weight.shape),
        bias_gradient(grad_y),
        layout.leave(grad_mask.reshape(x.shape[0], offset.shape[1] // 2, *d.out)) if masked else None,
    )
    return tuple(grad if wanted else None for grad, wanted in zip(gradients, need, strict=True))
