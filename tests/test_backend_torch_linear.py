"""PyTorch's linear layers on fastconv: products, gradients, packed weights, fused sums and activations."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_models import assert_close

import fastconv.backends.torch as backend
from fastconv.backends.torch import packing, regions
from fastconv.backends.torch.linear import LEAST_WORK

pytestmark = pytest.mark.isa_independent

TERMS = 2**9  # more than the sums below have


def pair(*, bias=True, dtype=torch.float32):
    """(a layer whose products are worth the way, the same on fastconv)."""
    torch.manual_seed(0)
    layer = nn.Linear(96, 64, bias=bias, dtype=dtype)
    return layer, backend.optimize(layer)


def rows(*lead, dtype=torch.float32, features=96):
    return torch.randn(*lead, features, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(50,), (2, 5, 7), (1, 43, 1)], ids=str)
def test_products_and_gradients_are_pytorchs(lead, bias, dtype):
    layer, ours = pair(bias=bias, dtype=dtype)
    results = []
    for module in (layer, ours):
        x = rows(*lead, dtype=dtype).requires_grad_()
        y = module(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad, *(parameter.grad for parameter in module.parameters())))
        assert y.shape == (*lead, 64)
        assert y.is_contiguous()
    for actual, expected in zip(*reversed(results), strict=True):
        assert_close(actual, expected, TERMS)
    (report,) = backend.report(ours).modules
    assert (report.engine, report.reason) == ("fastconv", "")


def test_evaluated_layers_keep_their_weight_packed_until_it_is_written_to():
    layer, ours = pair()
    x = rows(60)
    layer.eval(), ours.eval()
    with torch.no_grad():
        assert_close(ours(x), layer(x), TERMS)
        assert packing.is_kept(ours.weight)
        for module in (layer, ours):
            module.weight.mul_(2)
            module.bias.zero_()
        assert not packing.is_kept(ours.weight)
        assert_close(ours(x), layer(x), TERMS)
    with torch.inference_mode():
        assert_close(ours(x), layer(x), TERMS)


def test_inputs_of_any_strides_are_read_and_left_alone():
    layer, ours = pair()
    x = rows(96, 5, 10, features=11).permute(3, 1, 2, 0)
    before = x.clone()
    assert_close(ours(x), layer(x), TERMS)
    assert torch.equal(x, before)
    assert_close(ours(rows(1).expand(60, 96)), layer(rows(1).expand(60, 96)), TERMS)


def test_it_can_be_differentiated_twice():
    ours = backend.optimize(nn.Linear(64, 64, dtype=torch.float64))
    x = torch.randn(64, 64, dtype=torch.float64, requires_grad=True)
    weight, bias = ours.weight, ours.bias
    probe = torch.randn(64, 64, dtype=torch.float64)

    def of_gradients(module):
        y = (module(x).tanh() * probe).sum()
        grads = torch.autograd.grad(y, (x, *module.parameters()), create_graph=True)
        return torch.autograd.grad(sum(grad.square().sum() for grad in grads), (x, *module.parameters()))

    plain = nn.Linear(64, 64, dtype=torch.float64)
    plain.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
    for actual, expected in zip(of_gradients(ours), of_gradients(plain), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_transforms_of_functions():
    layer, ours = pair()
    x = rows(3, 50)
    assert_close(torch.vmap(ours)(x), layer(x), TERMS)
    parameters = dict(ours.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(ours, parameters, (x,)).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for number in range(3):
        layer.zero_grad()
        layer(x[number]).square().sum().backward()
        assert_close(grads["weight"][number], layer.weight.grad, TERMS)


@pytest.mark.filterwarnings("ignore")
def test_a_compiler_has_its_own_products():
    layer, ours = pair()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert_close(compiled(rows(50)), layer(rows(50)), TERMS)


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (rows(LEAST_WORK // (96 * 64)), "the product is small"),
        (rows(50).bfloat16(), "the input is bfloat16"),
        (torch.zeros(0, 96), "the product is small"),
    ],
)
def test_what_is_left_to_pytorch(x, reason):
    layer, ours = pair()
    if x.dtype == torch.bfloat16:
        with pytest.raises(RuntimeError, match="dtype"):
            ours(x)
    else:
        assert torch.equal(ours(x), layer(x))
    (report,) = backend.report(ours).modules
    assert report.reason == reason


def test_autocast_is_pytorchs():
    layer, ours = pair()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(rows(50)), layer(rows(50)))


def test_a_wrong_shape_is_pytorchs_error_and_names_the_module():
    model = backend.optimize(nn.Sequential(nn.Flatten(), nn.Linear(96, 64)))
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        model(torch.zeros(50, 95))
    assert "in 1 (Linear)" in caught.value.__notes__[0]


class Block(nn.Module):
    """A convolution, so that the block is traced, and what follows a linear layer."""

    def __init__(self, after):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(96, 96, 1), nn.Linear(96, 96)
        self.norm, self.after = nn.BatchNorm1d(96), after

    def forward(self, x):
        return self.after(self, self.linear(self.conv(x).flatten(2).transpose(1, 2)), x.flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    ("after", "does"),
    [
        (lambda m, y, x: F.gelu(y), ("gelu",)),
        (lambda m, y, x: y + x, ("add",)),
        (lambda m, y, x: torch.relu(x + y), ("add", "relu")),
        (lambda m, y, x: m.norm(y.flatten(0, 1)), ()),
        (lambda m, y, x: F.softplus(y), ()),
    ],
)
def test_what_a_linear_layer_does_besides(after, does):
    torch.manual_seed(0)
    model = Block(after).eval()
    ours, x = backend.optimize(model), torch.randn(2, 96, 6, 7)
    with torch.no_grad():
        for _ in range(3):
            assert_close(ours(x), model(x), TERMS)
    found = next(module.fused for module in backend.report(ours).modules if module.name == "linear")
    assert found == does
    assert all(region.fastconv_region.refused is None for region in regions.regions(ours))


def test_a_sum_that_broadcasts_is_done_as_it_is_written():
    torch.manual_seed(0)
    model = Block(lambda m, y, x: y + x[:, :1]).eval()
    ours, x = backend.optimize(model), torch.randn(2, 96, 6, 7)
    with torch.no_grad():
        for _ in range(2):
            assert_close(ours(x), model(x), TERMS)


def test_copies_and_restored_models():
    layer, ours = pair()
    other = copy.deepcopy(ours)
    assert_close(other(rows(50)), layer(rows(50)), TERMS)
    assert type(backend.restore(other)) is nn.Linear
    assert isinstance(ours, nn.Linear)
    assert ours.state_dict().keys() == layer.state_dict().keys()
