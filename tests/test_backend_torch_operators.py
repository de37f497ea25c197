"""The custom ops of the PyTorch backend: what PyTorch's own checks ask of them, gradients of gradients, torch.func."""

import pytest
import torch
import torch.nn.functional as F
from torch_models import MODULES, assert_close, images

import fastconv.backends.torch as backend
from fastconv.backends.torch import pooling
from fastconv.backends.torch.convolution import (
    convolution,
    convolution_backward_input,
    convolution_backward_weight,
)

pytestmark = pytest.mark.isa_independent

OPS = torch.ops.fastconv


def conv_arguments(last, *, transposed=False, padding_mode="zeros"):
    """(x, weight, bias), geometry: stride 2, unequal padding, groups."""
    x = images(2, 4, 6, 5, dtype=torch.float64)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = images(*((4, 3) if transposed else (6, 2)), 3, 3, dtype=torch.float64, seed=1)
    bias = images(6, dtype=torch.float64, seed=2)
    extra = [1, 1] if transposed else [0, 0]
    geometry = [[2, 2], [1, 1, 1, 2], [1, 1], transposed, extra, 2, padding_mode, last]
    return [t.requires_grad_() for t in (x, weight, bias)], geometry


def pool_arguments(last):
    """op name -> arguments, all of 3x3 windows or 2x2 results."""
    x = images(2, 3, 7, 6, dtype=torch.float64)
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
    grad = images(2, 3, 4, 4, dtype=torch.float64, seed=1).requires_grad_()
    small = images(2, 3, 3, 3, dtype=torch.float64, seed=1).requires_grad_()
    window = [3, 3], [2, 2]
    indices = pooling.max_pool.pool(x, *window, [1, 1], [1, 1], True, last, True)[1]
    nothing = torch.empty(0, dtype=torch.int64)
    return {
        "max_pool": (x, *window, [1, 1], [1, 1], True, last, True),
        "max_pool_backward": (grad, x, indices, *window, [1, 1], [1, 1], True, last),
        "max_pool_backward again": (grad, x, nothing, *window, [1, 1], [1, 1], True, last),
        "avg_pool": (x, *window, [1, 1], True, False, None, last),
        "avg_pool_backward": (grad, list(x.shape), *window, [1, 1], True, False, None, last),
        "lp_pool": (x, 3.0, *window, True, last),
        "lp_pool_backward": (small, x, 3.0, *window, True, last),
        "adaptive_max_pool": (x, [4, 4], last, False),
        "adaptive_max_pool_backward": (grad, x, nothing, [4, 4], last),
        "adaptive_avg_pool": (x, [4, 4], last),
        "adaptive_avg_pool_backward": (grad, list(x.shape), [4, 4], last),
    }


@pytest.mark.parametrize(("last", "transposed"), [(False, False), (True, True)])
def test_opcheck_of_convolution(last, transposed):
    (x, weight, bias), geometry = conv_arguments(last, transposed=transposed)
    y = convolution(x, weight, bias, *geometry, False)
    grad_y = torch.ones_like(y).requires_grad_()
    torch.library.opcheck(OPS.convolution.default, (x, weight, bias, *geometry, False))
    torch.library.opcheck(OPS.convolution_backward_input.default, (grad_y, weight, list(x.shape), *geometry))
    torch.library.opcheck(OPS.convolution_backward_weight.default, (grad_y, x, list(weight.shape), *geometry, True))


@pytest.mark.parametrize("name", pool_arguments(False))
def test_opcheck_of_pools(name):
    arguments = pool_arguments(last=name.endswith("backward"))[name]
    torch.library.opcheck(getattr(OPS, name.partition(" ")[0]).default, arguments)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 3, 1), (1, 3, 1, 2), (3, 2, 1, 1), (0, 2, 3, 3)])
@pytest.mark.parametrize("last", [False, True])
def test_strides_are_those_that_pytorch_was_told(shape, last):
    x, weight = torch.ones(shape), torch.ones(2, shape[1], 1, 1)
    geometry = [[1, 1], [0, 0, 0, 0], [1, 1], False, [0, 0], 1, "zeros", last]
    check = "test_faketensor"
    torch.library.opcheck(OPS.convolution.default, (x, weight, None, *geometry, False), test_utils=check)
    torch.library.opcheck(OPS.avg_pool.default, (x, [1, 1], [1, 1], [0, 0], False, True, None, last), test_utils=check)


@pytest.mark.parametrize(("transposed", "padding_mode"), [(False, "zeros"), (False, "reflect"), (True, "zeros")])
def test_convolution_can_be_differentiated_twice(transposed, padding_mode):
    operands, geometry = conv_arguments(padding_mode == "reflect", transposed=transposed, padding_mode=padding_mode)

    def function(x, weight, bias):
        return convolution(x, weight, bias, *geometry, False)

    torch.autograd.gradcheck(function, operands, fast_mode=True)
    torch.autograd.gradgradcheck(function, operands, fast_mode=True)


@pytest.mark.parametrize("name", ["max_pool", "avg_pool", "lp_pool", "adaptive_max_pool", "adaptive_avg_pool"])
@pytest.mark.parametrize("last", [False, True])
def test_pools_can_be_differentiated_twice(name, last):
    x, *rest = pool_arguments(last)[name]

    def function(x):
        y = getattr(pooling, name).pool(x, *rest)
        return y[0] if isinstance(y, tuple) else y

    torch.autograd.gradcheck(function, (x,), fast_mode=True)
    torch.autograd.gradgradcheck(function, (x,), fast_mode=True)


def module_and_functions(name):
    make, shape = MODULES[name]
    torch.manual_seed(0)
    plain = make().double()
    ours, parameters = backend.optimize(plain), dict(plain.named_parameters())

    def call(module):
        def loss(parameters, x):
            y = torch.func.functional_call(module, parameters, (x,))
            return (y[0] if isinstance(y, tuple) else y).square().sum()

        return loss

    return call(ours), call(plain), {k: p.detach() for k, p in parameters.items()}, images(*shape, dtype=torch.float64)


FUNC = ["conv1d", "conv2d reflect", "conv_transpose2d", "max_pool2d", "lp_pool2d", "adaptive_avg_pool2d"]


@pytest.mark.parametrize("name", FUNC)
def test_torch_func_takes_gradients_of_each_sample(name):
    ours, plain, parameters, x = module_and_functions(name)
    each = (None, 0)
    for transform in (
        lambda f: torch.func.grad(f, argnums=(0, 1))(parameters, x),
        lambda f: torch.func.vmap(torch.func.grad(f, argnums=(0, 1)), in_dims=each)(parameters, x[:, None]),
        lambda f: torch.func.vmap(f, in_dims=each)(parameters, x[:, None]),
        lambda f: torch.func.jacrev(torch.func.grad(lambda x: f(parameters, x)))(x[:1]),
    ):
        for actual, expected in zip(*map(torch.utils._pytree.tree_leaves, map(transform, (ours, plain))), strict=True):
            assert_close(actual, expected, x.numel() ** 2)


@pytest.mark.parametrize("transposed", [False, True])
def test_vmap_takes_batches_of_any_argument(transposed):
    (x, weight, bias), geometry = conv_arguments(False, transposed=transposed)
    x, weight, bias = x.detach(), weight.detach(), bias.detach()
    many = [torch.stack([t, 2 * t, 3 * t], dim=d) for t, d in ((x, 1), (weight, 2), (bias, 0))]

    def function(x, weight, bias):
        return convolution(x, weight, bias, *geometry, False)

    def loop(dims, operands):
        samples = [[t if d is None else t.select(d, i) for t, d in zip(operands, dims, strict=True)] for i in range(3)]
        return torch.stack([function(*sample) for sample in samples])

    for dims in ((1, None, None), (None, 2, None), (None, None, 0), (1, 2, 0), (1, None, 0)):
        operands = [many[i] if d is not None else (x, weight, bias)[i] for i, d in enumerate(dims)]
        assert_close(torch.func.vmap(function, in_dims=dims)(*operands), loop(dims, operands), 36)
        assert_close(torch.vmap(OPS.convolution.default, in_dims=(*dims, *[None] * 9))(*operands, *geometry, False),
                     loop(dims, operands), 36)  # fmt: skip


def test_vmap_takes_empty_batches():
    (x, weight, bias), geometry = conv_arguments(False)
    empty, (weight, bias) = x.detach()[None, :0].expand(3, 0, 4, 6, 5), (weight.detach(), bias.detach())
    y = torch.func.vmap(lambda x: convolution(x, weight, bias, *geometry, False))(empty)
    assert y.shape == (3, 0, 6, 3, 3)
    pooled = torch.func.vmap(lambda x: pooling.max_pool.pool(x, [2, 2], [2, 2], [0, 0], [1, 1], False, False, True))(y)
    assert [t.shape for t in pooled] == [(3, 0, 6, 1, 1)] * 2


def test_vmap_of_gradients_takes_batches_of_any_argument():
    (x, weight, _), geometry = conv_arguments(False)
    x, weight = x.detach(), weight.detach()
    grad_y = images(2, 6, 3, 3, dtype=torch.float64, seed=3)
    shape = convolution(x, weight, None, *geometry, False).shape
    assert grad_y.shape == shape
    weights, grads = torch.stack([weight, 2 * weight]), torch.stack([grad_y, 3 * grad_y])
    of_input = torch.func.vmap(lambda w: convolution_backward_input(grad_y, w, x.shape, *geometry))(weights)
    assert_close(of_input[1], 2 * of_input[0], 54)
    of_weight, of_bias = torch.func.vmap(lambda g: convolution_backward_weight(g, x, weight.shape, *geometry, True))(
        grads
    )
    assert_close(of_weight[1], 3 * of_weight[0], 54)
    assert_close(of_bias, grads.sum((1, 3, 4)), 18)


def test_ops_take_the_memory_format_they_are_told():
    (x, weight, bias), geometry = conv_arguments(False)
    expected = F.conv2d(F.pad(x, (1, 2, 1, 1)), weight, bias, 2, groups=2)
    for last in (False, True):
        y = convolution(x, weight, bias, *geometry[:-1], last, False)
        assert_close(y, expected, 18)
        assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
