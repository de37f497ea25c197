"""Geometries against PyTorch's output shapes over a grid, and their own arithmetic."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from fastconv.geometry import conv_geometry

SPATIAL = {1: (9,), 2: (8, 5), 3: (5, 6, 4)}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_conv_sizes_are_torch_s(ndim: int) -> None:
    """Every combination of kernel, stride, padding and dilation gives PyTorch's size, or an error where it has one."""
    for kernel, stride, padding, dilation in itertools.product((1, 2, 3), (1, 2, 3), (0, 1, 4), (1, 2)):
        x = torch.empty(2, 4, *SPATIAL[ndim], device="meta")
        weight = torch.empty(6, 2, *(kernel,) * ndim, device="meta")
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": 2}
        try:
            expected = tuple(CONV[ndim](x, weight, **options).shape)
        except RuntimeError:
            with pytest.raises(ValueError, match="kernel_size"):
                conv_geometry(x.shape, weight.shape, **options, ndim=ndim)
        else:
            assert conv_geometry(x.shape, weight.shape, **options, ndim=ndim).y_shape == expected
