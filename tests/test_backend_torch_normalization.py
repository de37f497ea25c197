"""Batch normalization of PyTorch's modules in training: its own results, statistics and gradients, on our kernels."""

import copy

import numpy as np
import pytest
import torch
from conftest import each
from torch import nn

from fastconv.backends.torch import optimize, report
from fastconv.backends.torch.normalization import batch_norm, batch_norm_backward
from fastconv.functional.activation import TOLD_BY_RESULT

pytestmark = pytest.mark.isa_independent

OPS = torch.ops.fastconv
MODULES = {
    "features": (nn.BatchNorm1d(5), (7, 5)),
    "signals": (nn.BatchNorm1d(5, eps=1e-3, momentum=0.3), (4, 5, 9)),
    "images": (nn.BatchNorm2d(5), (3, 5, 6, 4)),
    "means of all batches": (nn.BatchNorm2d(5, momentum=None), (3, 5, 6, 4)),
    "plain": (nn.BatchNorm2d(5, affine=False), (3, 5, 6, 4)),
    "untracked": (nn.BatchNorm2d(5, track_running_stats=False), (3, 5, 6, 4)),
    "volumes": (nn.BatchNorm3d(5), (2, 5, 3, 4, 2)),
}


def operands(last, weighted=True):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    x = (x.to(memory_format=torch.channels_last) if last else x).requires_grad_()
    values = [torch.randn(4, dtype=torch.float64).requires_grad_() if weighted else None for _ in range(2)]
    return x, *values


def residual_like(x):
    return torch.randn_like(x).requires_grad_()


# Whether a residual is added, and the activation.
ENDS = [(False, None), (True, None), *((summed, name) for summed in (False, True) for name in TOLD_BY_RESULT)]
ENDS += [(False, name) for name in ("elu", "gelu", "gelu_tanh", "silu", "hardswish")]


@pytest.mark.parametrize(("summed", "activation"), [(False, None), (True, None), (True, "relu"), (False, "silu")])
@pytest.mark.parametrize(("last", "weighted"), [(False, True), (True, False)])
def test_opcheck(last, weighted, summed, activation):
    x, weight, bias = operands(last, weighted)
    residual = residual_like(x) if summed else None
    torch.library.opcheck(OPS.batch_norm.default, (x, weight, bias, residual, activation, 1e-5, last))
    y, statistics = batch_norm(x, weight, bias, residual, activation, 1e-5, last)
    grad_y, y = torch.ones_like(y).requires_grad_(), y.detach() if summed and activation else None
    arguments = (grad_y, x, weight, bias, y, statistics.detach(), summed, activation, 1e-5, last)
    torch.library.opcheck(OPS.batch_norm_backward.default, arguments)


@pytest.mark.parametrize(("summed", "activation"), ENDS)
@pytest.mark.parametrize("last", [False, True])
def test_it_can_be_differentiated_twice(last, summed, activation):
    def function(*tensors):
        return batch_norm(*tensors[:3], tensors[3] if summed else None, activation, 1e-5, last)[0]

    x, *values = operands(last)
    tensors = x, *values, *([residual_like(x)] if summed else [])
    torch.autograd.gradcheck(function, tensors, fast_mode=True)
    torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


def test_what_has_no_gradient_after_a_sum():
    x, weight, bias = operands(False)
    with pytest.raises(ValueError, match="activation='gelu'"):
        batch_norm(x, weight, bias, x, "gelu", 1e-5, False)


@pytest.mark.parametrize("name", MODULES)
@each(dtype=[torch.float32, torch.float64], last=[False, True])
def test_modules_train_as_pytorchs(name, dtype, last):
    oracle, shape = copy.deepcopy(MODULES[name][0]).to(dtype), MODULES[name][1]
    torch.manual_seed(1)
    for parameter in oracle.parameters():
        nn.init.normal_(parameter)
    ours = optimize(oracle)
    assert isinstance(ours, type(oracle))
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for _ in range(2):
        x, grad_y = (2 * torch.randn(shape, dtype=dtype) + 1 for _ in range(2))
        if last and len(shape) in formats:
            x = x.to(memory_format=formats[len(shape)])
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        results = [module(leaf) for module, leaf in zip((ours, oracle), leaves, strict=True)]
        is_ours = "fastconv_batch_norm" in type(results[0].grad_fn).__name__
        assert is_ours == (x.is_contiguous() or len(shape) not in formats)
        assert results[0].stride() == results[1].stride()
        for y in results:
            y.backward(grad_y)
        pairs = [results, [leaf.grad for leaf in leaves]]
        pairs += [(p.grad, q.grad) for p, q in zip(ours.parameters(), oracle.parameters(), strict=True)]
        pairs += list(zip(ours.buffers(), oracle.buffers(), strict=True))
        for mine, theirs in pairs:
            assert mine.dtype == theirs.dtype
            tolerance = 400 * torch.finfo(dtype).eps
            torch.testing.assert_close(
                mine, theirs, rtol=tolerance, atol=tolerance * float(theirs.detach().abs().max())
            )
    x = torch.randn(shape, dtype=dtype)
    torch.testing.assert_close(ours.eval()(x), oracle.eval()(x))


def test_what_is_pytorchs_own():
    for norm, x in (
        (nn.BatchNorm2d(3).bfloat16(), torch.randn(2, 3, 4, 4).bfloat16()),
        (nn.BatchNorm2d(3), torch.randn(2, 3, 4, 4).bfloat16()),
    ):
        ours = optimize(norm)
        torch.testing.assert_close(ours(x), norm(x))
        torch.testing.assert_close(list(ours.buffers()), list(norm.buffers()))
    with pytest.raises(ValueError, match="more than 1 value"):
        optimize(nn.BatchNorm2d(3))(torch.randn(1, 3, 1, 1))
    with pytest.raises(ValueError, match="expected 4D"):
        optimize(nn.BatchNorm2d(3))(torch.randn(2, 3, 4))
    with pytest.raises(RuntimeError, match="the model"):
        optimize(nn.BatchNorm2d(3))(torch.randn(2, 4, 4, 4))


def test_vmap_and_gradients_of_a_model():
    torch.manual_seed(0)
    x, weight, bias = operands(False)
    xs, weights = torch.stack([x, 2 * x + 1]).detach(), torch.stack([weight, -weight]).detach()

    def gradient(x, weight):
        return torch.func.grad(
            lambda x: batch_norm(x, weight, bias.detach(), x, "tanh", 1e-5, False)[0].square().sum()
        )(x)

    together = torch.func.vmap(gradient)(xs, weights)
    alone = torch.stack([gradient(x, weight) for x, weight in zip(xs, weights, strict=True)])
    np.testing.assert_allclose(together.numpy(), alone.numpy(), rtol=1e-10, atol=1e-10)
    statistics = batch_norm(xs[0], None, None, None, None, 1e-5, False)[1]
    rest = None, None, None, statistics, False, None, 1e-5, False
    grads = torch.func.vmap(lambda x: batch_norm_backward(xs[0], x, *rest))(xs)
    one = batch_norm_backward(xs[0], xs[1], *rest)
    for many, single in zip(grads[:3], one[:3], strict=True):
        np.testing.assert_allclose(many[1].numpy(), single.numpy(), rtol=1e-12, atol=1e-12)


def test_a_training_step_compiles_whole():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    ours, x = optimize(model), torch.randn(2, 3, 8, 8)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    compiled(x).square().sum().backward()
    model(x).square().sum().backward()
    for mine, theirs in zip(ours.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(model.named_buffers()))
    assert not report(ours).on_torch


@pytest.mark.parametrize("taken", [["running_mean", "running_var"], ["num_batches_tracked"]], ids=" and ".join)
def test_statistics_that_somebody_took_away_are_not_followed(taken):
    oracle = nn.BatchNorm2d(5)
    for name in taken:
        setattr(oracle, name, None)
    model, x = optimize(nn.Sequential(copy.deepcopy(oracle))), torch.randn(3, 5, 6, 4)
    torch.testing.assert_close(model(x), oracle(x))
    for name, expected in oracle.named_buffers():
        torch.testing.assert_close(model[0].get_buffer(name), expected)


@pytest.mark.parametrize("taken", ["running_mean", "running_var"])
def test_one_of_the_running_statistics_alone_is_pytorchs_error(taken):
    oracle, x = nn.BatchNorm2d(5), torch.randn(3, 5, 6, 4)
    setattr(oracle, taken, None)
    for module in (oracle, optimize(nn.Sequential(copy.deepcopy(oracle)))):
        with pytest.raises(ValueError, match="running"):
            module(x)
