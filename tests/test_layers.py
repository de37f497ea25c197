"""Layers one by one: torch's results, keys, gradients and initial values, and the errors of bad arguments."""

import numpy as np
import pytest
import torch
from layer_pairs import F64, LAID_OUT, PAIRS, WITH_DTYPE, as_arrays, assert_states_equal, last, make_pair
from torch import nn

from fastconv import init, layers

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@pytest.mark.parametrize("name", PAIRS)
def test_two_training_steps_and_an_evaluation_are_torchs(name):
    layer, oracle, draw = make_pair(name)
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
    assert_states_equal(layer.state_dict(), as_arrays(oracle.state_dict()))
    x = draw(rng)
    np.testing.assert_allclose(layer.eval()(x), oracle.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_torch_loads_our_state(name):
    layer, oracle, _ = make_pair(name)
    oracle.load_state_dict({key: torch.tensor(value) for key, value in layer.state_dict().items()})
    assert_states_equal(layer.state_dict(), as_arrays(oracle.state_dict()))


@pytest.mark.parametrize("name", [name for name in PAIRS if name.startswith(WITH_DTYPE)])
def test_initial_values_have_torchs_distribution(name):
    layer, oracle, _ = make_pair(name, **({} if name.startswith("norm") else {"rng": 0}))
    for key, parameter in oracle.named_parameters():
        theirs, ours = parameter.detach().numpy(), layer.parameters()[key]
        fan_in = np.prod(oracle.weight.shape[1:]) if oracle.weight.ndim > 1 else 1
        if name.startswith("norm"):
            np.testing.assert_array_equal(ours, theirs)
        else:
            assert abs(ours).max() <= fan_in**-0.5
            assert ours.std() > 0.2 * fan_in**-0.5


@pytest.mark.parametrize("name", LAID_OUT)
def test_channels_last_is_channels_first_moved(name):
    unbatched = name.endswith("unbatched")
    layer, _, draw = make_pair(name)
    other, _, _ = make_pair(name, data_format="channels_last")
    other.load_state_dict(layer.state_dict())
    rng = np.random.default_rng(0)
    x = draw(rng)
    y = layer(x)
    moved = (lambda a: a) if y.ndim < 3 else (lambda a: last(a, unbatched))
    np.testing.assert_allclose(other(last(x, unbatched)), moved(y), rtol=1e-12, atol=1e-12)
    grad_y = rng.standard_normal(y.shape)
    grad_x, grad_moved = layer.backward(grad_y), other.backward(moved(grad_y))
    np.testing.assert_allclose(grad_moved, last(grad_x, unbatched), rtol=1e-12, atol=1e-12)
    for key, gradient in layer.gradients().items():
        np.testing.assert_allclose(other.gradients()[key], gradient, rtol=1e-12, atol=1e-12)


ACTIVATIONS = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["conv2d", "transposed2d", "linear", "norm2d"])
def test_a_fused_activation_is_torchs_after(name, activation):
    torch.manual_seed(0)
    layer, oracle, draw = make_pair(name, activation=activation)
    if name == "norm2d":
        nn.init.constant_(oracle.weight, 5)  # so that some values are above relu6's limit
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


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_a_normalization_adds_a_residual_before_its_activation_as_torch(activation):
    layer, oracle = layers.BatchNorm2d(3, activation="relu", **F64), nn.BatchNorm2d(3, dtype=torch.float64)
    rng = np.random.default_rng(0)
    x, residual, grad_y = rng.standard_normal((3, 4, 3, 5, 5))
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, residual)]
    y = layer(x, residual=residual, activation=activation)
    y_oracle = ACTIVATIONS[activation or "relu"]()(oracle(leaves[0]) + leaves[1])
    np.testing.assert_allclose(y, y_oracle.detach().numpy(), rtol=1e-12, atol=1e-12)
    y_oracle.backward(torch.tensor(grad_y))
    for gradient, leaf in zip(layer.backward(grad_y), leaves, strict=True):
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-10, atol=1e-10)
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
    layer, _, draw = make_pair(name, algorithm=algorithm)
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
    moved = last(x) if data_format == "channels_last" else x
    planes = x.reshape(2, 3, -1)
    mean, largest = layers.GlobalAvgPool(data_format=data_format), layers.GlobalMaxPool(data_format=data_format)
    np.testing.assert_allclose(mean(moved), planes.mean(-1), rtol=1e-12)
    np.testing.assert_array_equal(largest(moved), planes.max(-1))
    grad_y = np.array([[1.0, 2, 3], [4, 5, 6]])
    spread = np.broadcast_to(grad_y[..., None] / planes.shape[-1], planes.shape).reshape(x.shape)
    chosen = np.where(planes == planes.max(-1, keepdims=True), grad_y[..., None], 0).reshape(x.shape)
    for layer, expected in ((mean, spread), (largest, chosen)):
        grad_x = layer.backward(grad_y)
        np.testing.assert_allclose(grad_x, last(expected) if data_format == "channels_last" else expected, rtol=1e-12)
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
