"""Layers: torch.nn's results, keys and gradients; and what a layer promises beyond them."""

import copy
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from fastconv import algorithm, init, layers, runtime
from fastconv.functional import planned
from fastconv.layers.base import Layer
from fastconv.optim import SGD

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

F64 = {"dtype": np.float64}

# Our layer, torch's, and the shape of x: the same constructor arguments but for dtype.
PAIRS = {
    "conv1d": (layers.Conv1d, nn.Conv1d, (4, 6, 3, 2, 1, 2, 2), {}, (2, 4, 17)),
    "conv2d": (layers.Conv2d, nn.Conv2d, (4, 6, (3, 2), (2, 1), (1, 2), (1, 2), 2), {}, (2, 4, 9, 11)),
    "conv2d-same": (layers.Conv2d, nn.Conv2d, (3, 5, (4, 3)), {"padding": "same"}, (2, 3, 9, 8)),
    "conv2d-valid": (layers.Conv2d, nn.Conv2d, (3, 5, 3), {"padding": "valid", "bias": False}, (2, 3, 9, 8)),
    "conv2d-depthwise": (layers.Conv2d, nn.Conv2d, (4, 8, 3), {"padding": 1, "groups": 4}, (2, 4, 6, 7)),
    "conv2d-reflect": (layers.Conv2d, nn.Conv2d, (3, 5, 3, 1, 2), {"padding_mode": "reflect"}, (2, 3, 7, 8)),
    "conv2d-circular": (layers.Conv2d, nn.Conv2d, (3, 5, 3, 2, 1), {"padding_mode": "circular"}, (2, 3, 7, 8)),
    "conv2d-unbatched": (layers.Conv2d, nn.Conv2d, (3, 5, 3), {}, (3, 7, 8)),
    "conv3d": (layers.Conv3d, nn.Conv3d, (3, 4, (2, 3, 1), 1, (1, 1, 0)), {}, (2, 3, 4, 5, 6)),
    "transposed1d": (layers.ConvTranspose1d, nn.ConvTranspose1d, (4, 6, 3, 2, 1, 1, 2), {}, (2, 4, 7)),
    "transposed2d": (layers.ConvTranspose2d, nn.ConvTranspose2d, (4, 6, 3, (2, 3), 1, (1, 2), 2), {"dilation": 2},
                     (2, 4, 5, 4)),
    "transposed3d": (layers.ConvTranspose3d, nn.ConvTranspose3d, (3, 2, 2, 2), {"bias": False}, (2, 3, 3, 2, 4)),
    "max1d": (layers.MaxPool1d, nn.MaxPool1d, (3, 2, 1), {"ceil_mode": True}, (2, 3, 12)),
    "max2d": (layers.MaxPool2d, nn.MaxPool2d, ((3, 2), (2, 1), (1, 0), (1, 2)), {}, (2, 3, 9, 8)),
    "max3d": (layers.MaxPool3d, nn.MaxPool3d, (2,), {}, (2, 3, 4, 5, 6)),
    "avg1d": (layers.AvgPool1d, nn.AvgPool1d, (3, 2, 1), {"count_include_pad": False}, (2, 3, 12)),
    "avg2d": (layers.AvgPool2d, nn.AvgPool2d, (3, 2, 1), {"ceil_mode": True}, (2, 3, 8, 9)),
    "avg2d-divisor": (layers.AvgPool2d, nn.AvgPool2d, (2,), {"divisor_override": 3}, (2, 3, 8, 9)),
    "avg3d": (layers.AvgPool3d, nn.AvgPool3d, (2,), {}, (2, 3, 4, 5, 6)),
    "lp1d": (layers.LPPool1d, nn.LPPool1d, (3.0, 3, 2), {}, (2, 3, 12)),
    "lp2d": (layers.LPPool2d, nn.LPPool2d, (2.0, (3, 2)), {"ceil_mode": True}, (2, 3, 8, 9)),
    "lp3d": (layers.LPPool3d, nn.LPPool3d, (2.0, 2), {}, (2, 3, 4, 5, 6)),
    "adaptive-avg1d": (layers.AdaptiveAvgPool1d, nn.AdaptiveAvgPool1d, (5,), {}, (2, 3, 12)),
    "adaptive-avg2d": (layers.AdaptiveAvgPool2d, nn.AdaptiveAvgPool2d, ((3, None),), {}, (2, 3, 8, 9)),
    "adaptive-avg3d": (layers.AdaptiveAvgPool3d, nn.AdaptiveAvgPool3d, ((1, 2, 3),), {}, (2, 3, 4, 5, 6)),
    "adaptive-max1d": (layers.AdaptiveMaxPool1d, nn.AdaptiveMaxPool1d, (5,), {}, (2, 3, 12)),
    "adaptive-max2d": (layers.AdaptiveMaxPool2d, nn.AdaptiveMaxPool2d, ((3, 4),), {}, (2, 3, 8, 9)),
    "adaptive-max3d": (layers.AdaptiveMaxPool3d, nn.AdaptiveMaxPool3d, (2,), {}, (2, 3, 4, 5, 6)),
    "linear": (layers.Linear, nn.Linear, (5, 3), {}, (4, 5)),
    "linear-3d": (layers.Linear, nn.Linear, (5, 3, False), {}, (4, 2, 5)),
    "norm-features": (layers.BatchNorm1d, nn.BatchNorm1d, (3,), {}, (6, 3)),
    "norm1d": (layers.BatchNorm1d, nn.BatchNorm1d, (3, 1e-3, 0.3), {}, (4, 3, 5)),
    "norm2d": (layers.BatchNorm2d, nn.BatchNorm2d, (3,), {"momentum": None}, (4, 3, 5, 2)),
    "norm2d-plain": (layers.BatchNorm2d, nn.BatchNorm2d, (3,), {"affine": False}, (4, 3, 5, 2)),
    "norm2d-untracked": (layers.BatchNorm2d, nn.BatchNorm2d, (3,), {"track_running_stats": False}, (4, 3, 5, 2)),
    "norm2d-unbiased": (layers.BatchNorm2d, nn.BatchNorm2d, (3,), {"bias": False}, (4, 3, 5, 2)),
    "norm3d": (layers.BatchNorm3d, nn.BatchNorm3d, (3,), {}, (2, 3, 2, 3, 4)),
    "local-response": (layers.LocalResponseNorm, nn.LocalResponseNorm, (4, 0.2, 0.6, 2.0), {}, (2, 7, 3, 4)),
    "relu": (layers.ReLU, nn.ReLU, (), {}, (3, 4, 5)),
    "leaky-relu": (layers.LeakyReLU, nn.LeakyReLU, (0.2,), {}, (3, 4, 5)),
    "elu": (layers.ELU, nn.ELU, (1.5,), {}, (3, 4, 5)),
    "sigmoid": (layers.Sigmoid, nn.Sigmoid, (), {}, (3, 4, 5)),
    "tanh": (layers.Tanh, nn.Tanh, (), {}, (3, 4, 5)),
    "softmax": (layers.Softmax, nn.Softmax, (1,), {}, (3, 4, 5)),
    "log-softmax": (layers.LogSoftmax, nn.LogSoftmax, (-1,), {}, (3, 4)),
    "flatten": (layers.Flatten, nn.Flatten, (), {}, (3, 4, 5, 2)),
    "flatten-some": (layers.Flatten, nn.Flatten, (0, 2), {}, (3, 4, 5, 2)),
    "identity": (layers.Identity, nn.Identity, (), {}, (3, 4)),
    "unfold": (layers.Unfold, nn.Unfold, ((3, 2), 1, 1, (2, 1)), {}, (2, 3, 6, 7)),
    "fold": (layers.Fold, nn.Fold, ((6, 7), (3, 2), 1, 1, (2, 1)), {}, (2, 18, 24)),
    "zero1d": (layers.ZeroPad1d, nn.ZeroPad1d, ((1, 2),), {}, (2, 3, 6)),
    "zero2d": (layers.ZeroPad2d, nn.ZeroPad2d, ((1, 2, 3, 0),), {}, (2, 3, 6, 7)),
    "zero3d": (layers.ZeroPad3d, nn.ZeroPad3d, ((1, 2, 0, 3, 2, 1),), {}, (2, 3, 4, 5, 3)),
    "reflection1d": (layers.ReflectionPad1d, nn.ReflectionPad1d, ((1, 2),), {}, (2, 3, 6)),
    "reflection2d": (layers.ReflectionPad2d, nn.ReflectionPad2d, ((1, 2, 3, 0),), {}, (2, 3, 6, 7)),
    "reflection3d": (layers.ReflectionPad3d, nn.ReflectionPad3d, (2,), {}, (2, 3, 4, 5, 3)),
    "replication1d": (layers.ReplicationPad1d, nn.ReplicationPad1d, ((1, 2),), {}, (2, 3, 6)),
    "replication2d": (layers.ReplicationPad2d, nn.ReplicationPad2d, ((1, 2, 3, 0),), {}, (2, 3, 6, 7)),
    "replication3d": (layers.ReplicationPad3d, nn.ReplicationPad3d, (2,), {}, (2, 3, 4, 5, 3)),
    "circular1d": (layers.CircularPad1d, nn.CircularPad1d, ((1, 2),), {}, (2, 3, 6)),
    "circular2d": (layers.CircularPad2d, nn.CircularPad2d, ((1, 2, 3, 0),), {}, (2, 3, 6, 7)),
    "circular3d": (layers.CircularPad3d, nn.CircularPad3d, (2,), {}, (2, 3, 4, 5, 3)),
}  # fmt: skip
WITH_DTYPE = ("conv", "transposed", "linear", "norm")
LAID_OUT = [
    name
    for name, (ours, *_) in PAIRS.items()
    if "data_format" in inspect.signature(ours).parameters and name != "flatten-some"
]


def _make(name, **options):
    ours, theirs, arguments, keywords, shape = PAIRS[name]
    layer = ours(*arguments, **keywords, **(F64 if name.startswith(WITH_DTYPE) else {}), **options)
    oracle = theirs(*arguments, **keywords).double()
    # LP pools of negative sums are NaN, and torch's of other signs are not the formula's.
    positive = name.startswith("lp")
    return (
        layer,
        oracle,
        lambda rng: np.abs(rng.standard_normal(shape)) + 0.1 if positive else rng.standard_normal(shape),
    )


def _numpy(state):
    return {key: tensor.detach().numpy() for key, tensor in state.items()}


def _assert_states_equal(ours, theirs):
    assert list(ours) == list(theirs)
    for key in ours:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-12, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("name", PAIRS)
def test_two_training_steps_and_an_evaluation_are_torchs(name):
    layer, oracle, draw = _make(name)
    rng = np.random.default_rng(0)
    layer.load_state_dict(oracle.state_dict())
    for _ in range(2):  # the second one's gradients add to the first one's
        x = draw(rng)
        x_oracle = torch.tensor(x, requires_grad=True)
        y, y_oracle = layer(x), oracle(x_oracle)
        np.testing.assert_allclose(y, y_oracle.detach().numpy(), rtol=1e-12, atol=1e-12)
        grad_y = rng.standard_normal(y.shape)
        y_oracle.backward(torch.tensor(grad_y))
        np.testing.assert_allclose(layer.backward(grad_y), x_oracle.grad.numpy(), rtol=1e-10, atol=1e-10)
        gradients = layer.gradients()
        assert list(gradients) == list(layer.parameters()) == [key for key, _ in oracle.named_parameters()]
        for key, parameter in oracle.named_parameters():
            np.testing.assert_allclose(gradients[key], parameter.grad.numpy(), rtol=1e-10, atol=1e-10)
    _assert_states_equal(layer.state_dict(), _numpy(oracle.state_dict()))
    x = draw(rng)
    np.testing.assert_allclose(layer.eval()(x), oracle.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_torch_loads_our_state(name):
    layer, oracle, _ = _make(name)
    oracle.load_state_dict({key: torch.tensor(value) for key, value in layer.state_dict().items()})
    _assert_states_equal(layer.state_dict(), _numpy(oracle.state_dict()))


@pytest.mark.parametrize("name", [name for name in PAIRS if name.startswith(WITH_DTYPE)])
def test_initial_values_have_torchs_distribution(name):
    layer, oracle, _ = _make(name, **({} if name.startswith("norm") else {"rng": 0}))
    for key, parameter in oracle.named_parameters():
        theirs, ours = parameter.detach().numpy(), layer.parameters()[key]
        fan_in = np.prod(oracle.weight.shape[1:]) if oracle.weight.ndim > 1 else 1
        if name.startswith("norm"):
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert abs(ours).max() <= fan_in**-0.5
            assert ours.std() > 0.2 * fan_in**-0.5


def _last(x, unbatched=False):
    return np.ascontiguousarray(np.moveaxis(x, 0 if unbatched else 1, -1))


@pytest.mark.parametrize("name", LAID_OUT)
def test_channels_last_is_channels_first_moved(name):
    unbatched = name.endswith("unbatched")
    layer, _, draw = _make(name)
    other, _, _ = _make(name, data_format="channels_last")
    other.load_state_dict(layer.state_dict())
    rng = np.random.default_rng(0)
    x = draw(rng)
    y = layer(x)
    moved = (lambda a: a) if y.ndim < 3 else (lambda a: _last(a, unbatched))
    np.testing.assert_allclose(other(_last(x, unbatched)), moved(y), rtol=1e-12, atol=1e-12)
    grad_y = rng.standard_normal(y.shape)
    grad_x, grad_moved = layer.backward(grad_y), other.backward(moved(grad_y))
    np.testing.assert_allclose(grad_moved, _last(grad_x, unbatched), rtol=1e-12, atol=1e-12)
    for key, gradient in layer.gradients().items():
        np.testing.assert_allclose(other.gradients()[key], gradient, rtol=1e-12, atol=1e-12)


ACTIVATIONS = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["conv2d", "transposed2d", "linear"])
def test_a_fused_activation_is_torchs_after(name, activation):
    torch.manual_seed(0)
    layer, oracle, draw = _make(name, activation=activation)
    layer.load_state_dict(oracle.state_dict())
    rng = np.random.default_rng(0)
    x = draw(rng) * (20 if activation == "relu6" else 1)
    x_oracle = torch.tensor(x, requires_grad=True)
    y, y_oracle = layer(x), ACTIVATIONS[activation]()(oracle(x_oracle))
    np.testing.assert_allclose(y, y_oracle.detach().numpy(), rtol=1e-12, atol=1e-12)
    assert activation != "relu6" or 0 < np.count_nonzero(y == 6) < np.count_nonzero(y)
    grad_y = rng.standard_normal(y.shape)
    y_oracle.backward(torch.tensor(grad_y))
    np.testing.assert_allclose(layer.backward(grad_y), x_oracle.grad.numpy(), rtol=1e-10, atol=1e-10)
    for key, parameter in oracle.named_parameters():
        np.testing.assert_allclose(layer.gradients()[key], parameter.grad.numpy(), rtol=1e-10, atol=1e-10)


def test_relu6_lets_nan_pass():
    layer = layers.Linear(1, 1, bias=False, activation="relu6")
    layer.weight = np.ones((1, 1))
    x = np.array([[np.nan], [np.inf], [-np.inf], [5]], np.float32)
    np.testing.assert_array_equal(layer(x), [[np.nan], [6], [0], [5]])


@pytest.mark.parametrize("algorithm", [None, "auto", "direct"])
@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d", "transposed1d", "transposed2d", "transposed3d"])
def test_the_algorithm_reaches_both_passes(monkeypatch, name, algorithm):
    layer, _, draw = _make(name, algorithm=algorithm)
    seen = []

    def watch(operator):
        def watched(*arguments, **options):
            seen.append(options["algorithm"])
            return operator(*arguments, **options)

        return staticmethod(watched)

    for kind in ("function", "function_backward"):
        monkeypatch.setattr(type(layer), kind, watch(getattr(layer, kind)))
    layer.backward(layer(draw(np.random.default_rng(0))))
    assert seen == [algorithm, algorithm]
    assert ("algorithm=" in repr(layer)) == (algorithm is not None)


def test_transposed_output_size_chooses_the_output_padding():
    layer, oracle = layers.ConvTranspose2d(2, 3, 3, stride=2, **F64), nn.ConvTranspose2d(2, 3, 3, stride=2).double()
    layer.load_state_dict(oracle.state_dict())
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 5))
    y = layer(x, output_size=(10, 11))
    np.testing.assert_allclose(y, oracle(torch.tensor(x), output_size=(10, 11)).detach().numpy(), rtol=1e-12)
    assert layer.backward(y).shape == x.shape
    with pytest.raises(ValueError, match=r"output_size must be \(9, 11\).*got output_size=\(11, 11\)"):
        layer(x, output_size=11)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_max_unpool_inverts_max_pool(ndim):
    shape = (2, 3, 7, 6, 5)[: 2 + ndim]
    x = np.random.default_rng(0).standard_normal(shape)
    pool = getattr(layers, f"MaxPool{ndim}d")(2, return_indices=True)
    unpool = getattr(layers, f"MaxUnpool{ndim}d")(2)
    y, indices = pool(x)
    y_oracle, i_oracle = getattr(nn, f"MaxPool{ndim}d")(2, return_indices=True)(torch.tensor(x))
    np.testing.assert_array_equal(indices, i_oracle.numpy())
    z = unpool(y, indices, output_size=shape)
    z_oracle = getattr(nn, f"MaxUnpool{ndim}d")(2)(y_oracle, i_oracle, output_size=shape)
    np.testing.assert_array_equal(z, z_oracle.numpy())
    grad_z = np.random.default_rng(1).standard_normal(shape)
    np.testing.assert_array_equal(pool.backward(unpool.backward(grad_z)), np.where(z != 0, grad_z, 0))
    even = x[(..., *(slice(4),) * ndim)]
    assert unpool(*pool(even)).shape == even.shape


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_global_pools_are_the_planes_mean_and_maximum(ndim, data_format):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 6)[: 2 + ndim])
    moved = _last(x) if data_format == "channels_last" else x
    planes = x.reshape(2, 3, -1)
    mean, largest = layers.GlobalAvgPool(data_format=data_format), layers.GlobalMaxPool(data_format=data_format)
    np.testing.assert_allclose(mean(moved), planes.mean(-1), rtol=1e-12)
    np.testing.assert_array_equal(largest(moved), planes.max(-1))
    grad_y = np.array([[1.0, 2, 3], [4, 5, 6]])
    spread = np.broadcast_to(grad_y[..., None] / planes.shape[-1], planes.shape).reshape(x.shape)
    chosen = np.where(planes == planes.max(-1, keepdims=True), grad_y[..., None], 0).reshape(x.shape)
    for layer, expected in ((mean, spread), (largest, chosen)):
        grad_x = layer.backward(grad_y)
        np.testing.assert_allclose(grad_x, _last(expected) if data_format == "channels_last" else expected, rtol=1e-12)
    np.testing.assert_array_equal(largest.eval()(moved), planes.max(-1))


def _difference(f, a, direction, step=1e-6):
    return (f(a + step * direction) - f(a - step * direction)) / (2 * step)


@pytest.mark.parametrize("masked", [False, True])
def test_deformable_convolution_without_offsets_is_one_and_its_gradients_are_slopes(masked):
    rng = np.random.default_rng(0)
    layer = layers.DeformConv2d(2, 3, 3, padding=1, rng=0, **F64)
    plain = layers.Conv2d(2, 3, 3, padding=1, **F64)
    plain.load_state_dict(layer.state_dict())
    x, offset = rng.standard_normal((2, 2, 5, 4)), rng.uniform(-0.7, 0.7, (2, 18, 5, 4))
    mask = rng.uniform(0, 1, (2, 9, 5, 4)) if masked else None
    np.testing.assert_allclose(layer(x, np.zeros_like(offset)), plain(x), rtol=1e-12, atol=1e-12)
    layer.train()
    grad_y = rng.standard_normal((2, 3, 5, 4))
    y = layer(x, offset, mask)
    assert y.shape == grad_y.shape
    gradients = layer.backward(grad_y)
    assert (gradients[2] is None) == (mask is None)
    layer.eval()
    inputs = [x, offset, mask]
    for number, gradient in enumerate(gradients):
        if gradient is None:
            continue
        direction = rng.standard_normal(gradient.shape)

        def loss(value, number=number):
            return float((layer(*inputs[:number], value, *inputs[number + 1 :]) * grad_y).sum())

        assert (gradient * direction).sum() == pytest.approx(_difference(loss, inputs[number], direction), rel=1e-5)
    np.testing.assert_allclose(layer.gradients()["bias"], grad_y.sum((0, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_are_torchs(reduction):
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((5, 4)), rng.standard_normal((5, 4))
    for ours, theirs, aim in (
        (layers.MSELoss, nn.MSELoss, target),
        (layers.CrossEntropyLoss, nn.CrossEntropyLoss, rng.integers(4, size=5)),
    ):
        layer, x_oracle = ours(reduction=reduction), torch.tensor(x, requires_grad=True)
        loss, loss_oracle = layer(x, aim), theirs(reduction=reduction)(x_oracle, torch.tensor(aim))
        np.testing.assert_allclose(loss, loss_oracle.detach().numpy(), rtol=1e-12)
        weights = np.arange(np.size(loss), dtype=float).reshape(np.shape(loss)) + 1
        loss_oracle.backward(torch.tensor(weights))
        np.testing.assert_allclose(layer.backward(weights if reduction == "none" else 1.0), x_oracle.grad, rtol=1e-12)
        with pytest.raises(ValueError, match="reduction"):
            ours(reduction="average")


def test_dropout_keeps_the_mean_drops_where_its_gradient_does_and_is_seeded():
    x = np.ones((100, 100), np.float32)
    layer = layers.Dropout(0.25, rng=3)
    y = layer(x)
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_array_equal(layer.backward(x), y)
    assert (layer(x) != y).any()
    np.testing.assert_array_equal(layers.Dropout(0.25, rng=3)(x), y)
    assert layer.eval()(x) is x
    with pytest.raises(ValueError, match=r"p must be a probability.*1\.5"):
        layers.Dropout(1.5)


def test_the_lectures_convolution_with_relu_and_mean_squared_error():
    layer, loss = layers.Conv2d(1, 1, 2, activation="relu", **F64), layers.MSELoss()
    layer.weight = [[[[0.6779961, -0.3282364], [0.61954254, -0.02001727]]]]
    layer.bias = [0.0]
    x = np.array([[[[1.0, 1, 2], [1, 2, 1], [2, 1, 1]]]])
    y = layer(x)
    assert loss(y, np.ones_like(y)) == pytest.approx(0.12856321, abs=1e-7)
    layer.backward(loss.backward())
    gradients = layer.gradients()
    np.testing.assert_allclose(
        gradients["weight"][0, 0], [[0.83250606, 0.75945675], [0.75945675, 0.4834994]], atol=1e-6
    )
    np.testing.assert_allclose(gradients["bias"], [0.5188656], atol=1e-6)


def _network(**options):
    return layers.Sequential(
        layers.Conv2d(1, 4, 3, padding="same", activation="relu", rng=0, **options),
        layers.BatchNorm2d(4, **options),
        layers.MaxPool2d(2),
        layers.Flatten(),
        layers.Linear(4 * 3 * 3, 2, rng=1, **options),
    )


def test_a_network_learns():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 1, 6, 6)).astype(np.float32)
    target = (x[:, 0, :, :3].sum((1, 2)) > x[:, 0, :, 3:].sum((1, 2))).astype(np.int64)
    model, loss = _network(), layers.CrossEntropyLoss()
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


@pytest.mark.parametrize(
    "layer", [layers.Conv1d(3, 2, 3, **F64), layers.ConvTranspose1d(3, 2, 3, **F64), layers.Linear(9, 2, **F64)]
)
def test_backward_parameters_leaves_the_same_gradients(layer):
    x = np.random.default_rng(0).standard_normal((2, 3, 9))
    grad_y = np.ones_like(layer(x))
    layer.backward(grad_y)
    gradients = layer.gradients()
    layer.zero_grad()
    assert layer.gradients() == {}
    layer(x)
    assert layer.backward_parameters(grad_y) is None
    for key, gradient in layer.gradients().items():
        np.testing.assert_allclose(gradient, gradients[key], rtol=1e-12)


def test_zero_grad_leaves_earlier_gradients_alone():
    layer = layers.Linear(2, 2, **F64)
    x = np.ones((1, 2))
    layer.backward(layer(x))
    kept = layer.gradients()["weight"]
    before = kept.copy()
    layer.zero_grad()
    layer.backward(layer(2 * x))
    np.testing.assert_array_equal(kept, before)


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


def test_two_forwards_are_gone_back_through_last_first():
    layer = layers.Sigmoid()
    first, second = layer(np.array([0.0])), layer(np.array([1.0]))
    np.testing.assert_allclose(layer.backward(np.ones(1)), second * (1 - second), rtol=1e-12)
    np.testing.assert_allclose(layer.backward(np.ones(1)), first * (1 - first), rtol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_backward_without_a_training_forward_raises(name):
    layer, _, draw = _make(name)
    x = draw(np.random.default_rng(0))
    with pytest.raises(RuntimeError, match=f"backward of {type(layer).__name__}.*every forward"):
        layer.backward(x)
    y = layer.eval()(x)
    with pytest.raises(RuntimeError, match=f"backward of {type(layer).__name__}.*evaluation mode"):
        layer.backward(y)


def test_evaluation_makes_the_state_read_only_and_training_writeable_again():
    model = _network()
    x = np.zeros((1, 1, 6, 6), np.float32)
    assert model.eval() is model
    assert not any(layer.training for _, layer in model.named_layers())
    for change in (
        lambda: model[0].weight.__iadd__(1),
        lambda: setattr(model[0], "weight", np.zeros_like(model[0].weight)),
        lambda: SGD(model.parameters()).step({key: np.ones_like(p) for key, p in model.parameters().items()}),
    ):
        with pytest.raises(ValueError, match="read-only"):
            change()
    model(x)
    assert model.train() is model
    model[0].weight += 1
    model(np.zeros((2, 1, 6, 6), np.float32))


def test_entering_a_mode_forgets_what_was_saved():
    layer = layers.ReLU()
    layer(np.zeros(3))
    layer.train()
    with pytest.raises(RuntimeError, match="every forward"):
        layer.backward(np.zeros(3))


def test_an_evaluated_model_loads_a_state_and_stays_read_only():
    model, other = _network().eval(), _network(dtype=np.float64)
    other[0].weight += 1
    assert model.load_state_dict(other.state_dict()) == ([], [])
    np.testing.assert_allclose(model[0].weight, other[0].weight, rtol=1e-6)
    assert model[0].weight.dtype == np.float32
    assert not model[0].weight.flags.writeable


def test_a_state_that_does_not_fit_changes_nothing():
    model = _network()
    before = {key: value.copy() for key, value in model.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    with pytest.raises(ValueError, match=r"missing \['4\.bias'\], unexpected \['5\.bias'\]"):
        model.load_state_dict({key.replace("4.bias", "5.bias"): value for key, value in state.items()})
    with pytest.raises(ValueError, match=r"'4\.bias' must have shape \(2,\), got \(3,\)"):
        model.load_state_dict(state | {"4.bias": np.zeros(3)})
    _assert_states_equal(model.state_dict(), before)
    missing, unexpected = model.load_state_dict({"4.bias": state["4.bias"], "more": np.zeros(1)}, strict=False)
    assert (len(missing), unexpected) == (len(before) - 1, ["more"])
    np.testing.assert_array_equal(model[4].bias, before["4.bias"] + 1)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_keep_values_and_mode(clone):
    model = _network().eval()
    twin = clone(model)
    _assert_states_equal(twin.state_dict(), model.state_dict())
    assert not twin.training
    assert not twin[0].weight.flags.writeable
    twin.train()[0].weight += 1
    assert (twin[0].weight != model[0].weight).all()
    assert twin.parameters()["0.weight"] is twin[0].weight


def test_assigning_to_a_parameter_copies_into_it():
    layer = layers.Linear(2, 3)
    weight = layer.weight
    layer.weight = np.ones((3, 2))
    assert layer.weight is weight
    np.testing.assert_array_equal(weight, 1)
    with pytest.raises(ValueError, match=r"weight is of shape \(3, 2\).*\(2, 3\)"):
        layer.weight = np.ones((2, 3))
    with pytest.raises(ValueError, match="bias is None"):
        layers.Linear(2, 3, bias=False).bias = np.zeros(3)


def test_many_threads_share_an_evaluated_model():
    model = _network().eval()
    inputs = [np.full((2, 1, 6, 6), value, np.float32) for value in range(16)]
    with ThreadPoolExecutor(16) as pool:
        outputs = list(pool.map(model, inputs))
    for x, y in zip(inputs, outputs, strict=True):
        np.testing.assert_array_equal(y, model(x))


CONVOLUTIONS = [name for name in PAIRS if name.startswith(("conv", "transposed"))]


@pytest.fixture
def plans_made(monkeypatch):
    """The shapes of x for which a convolution was planned, and so packed, in order."""
    shapes = []

    def watch(plan):
        def watched(x_shape, *arguments, **options):
            shapes.append(x_shape)
            return plan(x_shape, *arguments, **options)

        return watched

    for name in planned.__all__:
        if name.startswith("plan_"):
            monkeypatch.setattr(planned, name, watch(getattr(planned, name)))
    return shapes


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_packing_changes_no_bit(plans_made, name, data_format):
    layer, _, draw = _make(name, data_format=data_format, activation="elu")
    x = draw(np.random.default_rng(0))
    x = x if data_format == "channels_first" else np.moveaxis(x, -x.ndim + (x.ndim > layer.ndim + 1), -1)
    inputs = [x, -x] if x.ndim == layer.ndim + 1 else [x, x[:1], np.concatenate([x, -x]), -x, x[1:], x[0]]
    in_training = [layer(x) for x in inputs]
    for pack in (False, True):
        layer.eval(pack=pack)
        for x, expected in zip(inputs, in_training, strict=True):
            np.testing.assert_array_equal(layer(x), expected)
    assert plans_made == list(dict.fromkeys(x.shape for x in inputs))


def test_packs_of_the_last_four_shapes_are_kept(plans_made):
    layer = layers.Conv1d(2, 3, 2).eval()
    for length in (4, 5, 6, 7, 4, 5, 6, 7, 8, 4, 8):
        layer(np.zeros((1, 2, length), np.float32))
    assert [shape[2] for shape in plans_made] == [4, 5, 6, 7, 8, 4]


def test_training_and_a_loaded_state_drop_the_packs(plans_made):
    model = layers.Sequential(layers.Conv2d(2, 3, 2), layers.ReLU(), layers.ConvTranspose2d(3, 2, 2))
    state = {key: array + 1 for key, array in model.state_dict().items()}
    x = np.random.default_rng(0).standard_normal((2, 2, 5, 4)).astype(np.float32)
    before = model.eval()(x)
    assert len(plans_made) == 2
    model.load_state_dict(state)
    after = model(x)
    assert len(plans_made) == 4
    assert (after != before).any()
    with pytest.raises(ValueError, match="read-only"):
        model[0].weight += 1
    np.testing.assert_array_equal(after, model.eval(pack=False)(x))
    model.load_state_dict(state)
    np.testing.assert_array_equal(model(x), after)
    np.testing.assert_array_equal(model.train()(x), after)
    assert len(plans_made) == 4  # neither in training nor without packing
    model[0].weight -= 1
    np.testing.assert_array_equal(model(x), model.train(False)(x))
    assert len(plans_made) == 6


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("pack", [True, False])
def test_a_copy_of_an_evaluated_layer_packs_for_itself(plans_made, clone, pack):
    layer, x = layers.Conv1d(2, 3, 2).eval(pack=pack), np.ones((1, 2, 5), np.float32)
    y = layer(x)
    twin = clone(layer)
    np.testing.assert_array_equal(twin(x), y)
    np.testing.assert_array_equal(layer(x), y)
    assert len(plans_made) == (2 if pack else 0)
    assert not twin.weight.flags.writeable


def test_a_packed_layer_follows_isa_policy_and_attributes(isa):
    layer, x = layers.ConvTranspose2d(3, 4, 3, stride=2).eval(), np.ones((2, 3, 5, 4), np.float32)
    for change in (
        lambda: None,
        lambda: setattr(layer, "activation", "tanh"),
        lambda: setattr(layer, "algorithm", "direct"),
        lambda: setattr(layer, "stride", (1, 2)),
        lambda: runtime.set_isa(runtime.available_isas()[-1]),
    ):
        layer(x)
        change()
        y = layer(x)
        expected = layer.eval(pack=False)(x)
        layer.eval()
        np.testing.assert_array_equal(y, expected)
    assert layer(x, output_size=(7, 10)).shape == (2, 4, 7, 10)
    with algorithm("direct"):
        np.testing.assert_array_equal(layer(x), y)


@pytest.mark.parametrize("pack", [True, False])
def test_an_evaluated_convolution_refuses_what_it_refuses_in_training(pack):
    layer = layers.Conv2d(2, 3, 3).eval(pack=pack)
    for x, kind, message in (
        (np.zeros((1, 2, 5, 5)), TypeError, "dtype"),
        ([[[0.0]]], TypeError, "x must be a NumPy array, got list"),
        (np.zeros((1, 2, 5), int), TypeError, "x must be float32 or float64"),
        (np.zeros((5, 5), np.float32), ValueError, "x must have 3 or 4 dimensions"),
        (np.zeros((1, 3, 5, 5), np.float32), ValueError, "groups"),
        (np.zeros((1, 2, 2, 5), np.float32), ValueError, "weight.shape"),
    ):
        with pytest.raises(kind, match=message):
            layer(x)


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
    move = _last if data_format == "channels_last" else (lambda a: a)
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


def test_no_layer_writes_into_its_input():
    model = _network()
    x = np.random.default_rng(0).standard_normal((2, 1, 6, 6)).astype(np.float32)
    x.flags.writeable = False
    y = model(x)
    y.flags.writeable = False
    model.backward(y)


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


def test_an_initializer_draws_the_weight_and_zeros_the_bias():
    layer = layers.Conv2d(3, 4, 5, initializer=init.glorot_normal, rng=5)
    np.testing.assert_array_equal(layer.weight, init.glorot_normal((4, 3, 5, 5), rng=5))
    np.testing.assert_array_equal(layer.bias, 0)


def test_one_generator_gives_different_layers_and_one_seed_equal_ones():
    rng = np.random.default_rng(0)
    first, second = layers.Linear(3, 3, rng=rng), layers.Linear(3, 3, rng=rng)
    assert (first.weight != second.weight).any()
    np.testing.assert_array_equal(layers.Linear(3, 3, rng=0).weight, first.weight)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: layers.Conv2d(3, 4, 3, groups=2), ValueError, "groups must divide in_channels=3"),
        (lambda: layers.Conv2d(0, 4, 3), ValueError, "in_channels"),
        (lambda: layers.Conv2d(3, 4, 3.0), TypeError, "kernel_size"),
        (lambda: layers.Conv2d(3, 4, (3, 3, 3)), ValueError, "kernel_size"),
        (lambda: layers.Conv2d(3, 4, 3, stride=0), ValueError, "stride"),
        (lambda: layers.Conv2d(3, 4, 3, padding=-1), ValueError, "padding"),
        (lambda: layers.Conv2d(3, 4, 3, stride=2, padding="same"), ValueError, "same"),
        (lambda: layers.Conv2d(3, 4, 3, padding_mode="mirror"), ValueError, "padding_mode"),
        (lambda: layers.Conv2d(3, 4, 3, data_format="NHWC"), ValueError, "data_format"),
        (lambda: layers.Conv2d(3, 4, 3, activation="gelu"), ValueError, "activation"),
        (lambda: layers.Conv2d(3, 4, 3, dtype=np.float16), TypeError, "dtype must be float32 or float64"),
        (lambda: layers.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), ValueError, "padding_mode must be 'zeros', "),
        (lambda: layers.Conv2d(3, 4, 3, algorithm="fft"), ValueError, "algorithm must be 'auto'.*algorithm='fft'"),
        (lambda: layers.ConvTranspose1d(3, 4, 3, algorithm=1), TypeError, "algorithm"),
        (lambda: layers.DeformConv2d(3, 4, 3, algorithm="direct"), ValueError, "algorithm must be 'auto', got"),
        (lambda: layers.Linear(3, 4, activation="softmax"), ValueError, "activation"),
        (lambda: layers.Linear(3, -4), ValueError, "out_features"),
        (lambda: layers.ZeroPad2d((1, 2, 3)), ValueError, "padding"),
        (lambda: layers.BatchNorm2d(3)(np.zeros((2, 3), np.float32)), ValueError, "BatchNorm2d must have rank"),
        (lambda: layers.Flatten()(np.zeros(3)), ValueError, "no axes start_dim=1"),
        (lambda: layers.Flatten(2, 1)(np.zeros((3, 2, 2))), ValueError, "no axes start_dim=2 to end_dim=1"),
        (lambda: layers.Parallel(), ValueError, "at least one"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
