"""Layers made of layers: networks, branches, a layer in two places, layers of one's own."""

import numpy as np
import pytest
import torch
from layer_pairs import F64, last, network
from torch import nn

from fastconv import layers
from fastconv.layers.base import Layer
from fastconv.optim import SGD

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def test_a_network_learns():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 1, 6, 6)).astype(np.float32)
    target = (x[:, 0, :, :3].sum((1, 2)) > x[:, 0, :, 3:].sum((1, 2))).astype(np.int64)
    model, loss = network(), layers.CrossEntropyLoss()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(40):
        losses.append(float(loss(model(x), target)))
        model.backward_parameters(loss.backward())
        optimizer.step(model.gradients())
        model.zero_grad()
    assert losses[-1] < 0.1 * losses[0]
    assert (model.eval()(x).argmax(1) == target).mean() > 0.95
    assert all(parameter.dtype == np.float32 for parameter in model.parameters().values())


def test_a_layer_used_twice_is_gone_back_through_twice():
    shared, x = layers.Linear(3, 3, activation="tanh", **F64), np.random.default_rng(0).standard_normal((2, 3))
    model = layers.Sequential(shared, shared)
    oracle = nn.Linear(3, 3).double()
    shared.load_state_dict(oracle.state_dict())
    x_oracle = torch.tensor(x, requires_grad=True)
    y_oracle = torch.tanh(oracle(torch.tanh(oracle(x_oracle))))
    y_oracle.sum().backward()
    y = model(x)
    np.testing.assert_allclose(model.backward(np.ones_like(y)), x_oracle.grad, rtol=1e-12)
    np.testing.assert_allclose(shared.gradients()["weight"], oracle.weight.grad, rtol=1e-12)
    assert list(model.parameters()) == ["0.weight", "0.bias"]
    assert list(model.gradients()) == ["0.weight", "0.bias"]
    assert list(model.state_dict()) == list(nn.Sequential(oracle, oracle).state_dict())
    assert model.parameter_count() == 12


def test_sequential_is_indexed_named_and_extended():
    model = layers.Sequential({"conv": layers.Conv2d(1, 2, 3), "relu": layers.ReLU()})
    assert list(model.state_dict()) == ["conv.weight", "conv.bias"]
    assert len(model) == 2
    assert model[-1] is list(model)[1] is model.relu
    assert list(model[:1].state_dict()) == ["conv.weight", "conv.bias"]
    assert layers.Sequential(layers.ReLU()).append(layers.Tanh())[1].__class__ is layers.Tanh
    for name in ("", "a.b", "forward", "training"):
        with pytest.raises(ValueError, match="cannot be named"):
            layers.Sequential({name: layers.ReLU()})
    with pytest.raises(TypeError, match="got int"):
        layers.Sequential(3)


class _TorchResidual(nn.Module):
    def __init__(self, body, shortcut):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return torch.relu(self.body(x) + self.shortcut(x))


class _TorchParallel(nn.Module):
    def __init__(self, *branches):
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(str(number), branch)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.children()], 1)


def _branched(make, residual, parallel, data_format=None):
    options = {} if data_format is None else {"data_format": data_format, **F64}
    conv = lambda *a, **k: make.Conv2d(*a, **k, **options)  # noqa: E731
    relu_body = make.Sequential(conv(3, 5, 3, padding=1), make.ReLU())
    return make.Sequential(
        residual(make.Sequential(conv(3, 4, 1), make.Tanh()), conv(3, 4, 1)),
        residual(conv(4, 4, 3, padding=1), make.Identity()),
        parallel(conv(4, 2, 1), make.Identity(), conv(4, 3, 3, padding=1)),
        conv(9, 3, 1),
        relu_body,
    )


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_residual_and_parallel_are_torchs(data_format):
    model = _branched(
        layers,
        lambda body, shortcut: layers.Residual(body, shortcut, activation="relu"),
        lambda *branches: layers.Parallel(*branches, data_format=data_format),
        data_format,
    )
    oracle = _branched(nn, _TorchResidual, _TorchParallel).double()
    model.load_state_dict(oracle.state_dict())
    move = last if data_format == "channels_last" else (lambda a: a)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 6, 5))
    x_oracle = torch.tensor(x, requires_grad=True)
    y, y_oracle = model(move(x)), oracle(x_oracle)
    np.testing.assert_allclose(y, move(y_oracle.detach().numpy()), rtol=1e-11, atol=1e-12)
    grad_y = rng.standard_normal(tuple(y_oracle.shape))
    y_oracle.backward(torch.tensor(grad_y))
    np.testing.assert_allclose(model.backward(move(grad_y)), move(x_oracle.grad.numpy()), rtol=1e-10, atol=1e-11)
    for key, parameter in oracle.named_parameters():
        np.testing.assert_allclose(model.gradients()[key], parameter.grad.numpy(), rtol=1e-10, atol=1e-11)


def test_a_layer_in_both_branches_is_gone_back_through_in_order():
    shared, x = layers.Linear(3, 3, **F64), np.random.default_rng(0).standard_normal((2, 3))
    model = layers.Residual(layers.Sequential(shared, layers.Tanh()), shared)
    w, b = torch.tensor(shared.weight, requires_grad=True), torch.tensor(shared.bias)
    inner = torch.tensor(x) @ w.T + b
    (torch.tanh(inner) + inner).sum().backward()
    model.backward(np.ones_like(model(x)))
    np.testing.assert_allclose(shared.gradients()["weight"], w.grad, rtol=1e-12)


def test_repr_is_torchs():
    ours = layers.Sequential(
        layers.Conv2d(1, 6, 5, 2, (1, 2), 2, bias=False),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Flatten(),
        layers.BatchNorm2d(6),
        layers.Dropout(),
        layers.Linear(4, 2),
        layers.Sequential(layers.ConvTranspose2d(2, 4, 3, groups=2), layers.AdaptiveAvgPool2d(1)),
    )
    theirs = nn.Sequential(
        nn.Conv2d(1, 6, 5, 2, (1, 2), 2, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.BatchNorm2d(6),
        nn.Dropout(),
        nn.Linear(4, 2),
        nn.Sequential(nn.ConvTranspose2d(2, 4, 3, groups=2), nn.AdaptiveAvgPool2d(1)),
    )
    assert repr(ours).replace("p=0.5", "p=0.5, inplace=False") == repr(theirs)
    assert repr(layers.Conv1d(1, 2, 4, padding="same", activation="elu")) == (
        "Conv1d(1, 2, kernel_size=(4,), stride=(1,), padding=((1, 2),), activation=elu)"
    )


class _Scale(Layer):
    def __init__(self, channels):
        self.add_parameter("scale", np.ones(channels))

    def forward(self, x):
        self.save(x)
        return self.scale * x

    def backward(self, grad_y):
        (x,) = self.restore()
        self.accumulate(scale=(grad_y * x).sum(0))
        return self.scale * grad_y


def test_a_layer_of_ones_own():
    model = layers.Sequential(_Scale(3), layers.Tanh(), _Scale(3))
    x = np.random.default_rng(0).standard_normal((2, 3))
    np.testing.assert_allclose(model(x), np.tanh(x), rtol=1e-12)
    model.backward(np.ones((2, 3)))
    assert list(model.gradients()) == ["0.scale", "2.scale"]
    np.testing.assert_allclose(model.gradients()["2.scale"], np.tanh(x).sum(0), rtol=1e-12)
    with pytest.raises(ValueError, match="'scale' already"):
        model[0].add_parameter("scale", np.ones(3))
