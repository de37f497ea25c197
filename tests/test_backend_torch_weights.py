"""Weights of PyTorch models that lie in channels_last, and their gradients."""

import numpy as np
import pytest
import torch
from torch import nn

import fastconv.backends.torch as backend
from fastconv.backends.torch.arrays import as_array, gradient_like


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize(("shape", "memory_format"), [((5, 7, 3, 2), torch.channels_last),
                                                      ((5, 7, 3, 2, 4), torch.channels_last_3d)])  # fmt: skip
def test_weights_that_lie_last_are_turned_and_so_are_their_gradients(shape, memory_format, dtype):
    weight = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)
    array = as_array(weight, False)
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, weight.numpy())
    if dtype != torch.float16:
        gradient = gradient_like(weight, array)
        assert gradient.stride() == weight.stride()
        assert torch.equal(gradient, weight)
        plain = weight.contiguous()
        assert gradient_like(plain, array).data_ptr() == array.ctypes.data
        assert as_array(plain, False).ctypes.data == plain.data_ptr()


def test_gradients_of_weights_that_lie_last_are_kept_as_they_come():
    net = nn.Conv2d(8, 6, 3).to(memory_format=torch.channels_last)
    backend.optimize(net, inplace=True)
    x = torch.randn(2, 8, 9, 9).contiguous(memory_format=torch.channels_last).requires_grad_()
    net(x).sum().backward()
    assert net.weight.grad.stride() == net.weight.stride()
    mine = net.weight.grad.clone()
    backend.restore(net)
    net.weight.grad = None
    net(x.detach().requires_grad_()).sum().backward()
    torch.testing.assert_close(mine, net.weight.grad)
