"""Fused networks: what they compute, what is left of the layers, and that their source stays as it was."""

import copy

import numpy as np
import pytest
from cases import DTYPES, LAYOUTS

from fastconv import layers, models
from fastconv.layers import Conv2d, Fused, Sequential, fuse
from fastconv.layers.base import Layer
from fastconv.layers.fused import FusedSum
from fastconv.models import mobilenet, resnet
from fastconv.models.kit import Kit

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def with_statistics(network, seed=0):
    """The network with random running statistics and parameters of normalizations, as training leaves them."""
    rng = np.random.default_rng(seed)
    for key, array in network.state_dict().items():
        if key.endswith("running_var"):
            array[...] = rng.uniform(0.5, 2, array.shape)
        elif array.ndim == 1:
            array[...] += rng.normal(0, 0.2, array.shape)
    return network


def limit(network, y):
    """Each layer's rounding errors, eps a term of its sums, relative to the largest value; see tolerance.py."""
    terms = sum(a.size // a.shape[0] for key, a in network.parameters().items() if key.endswith("weight"))
    return 2 * np.finfo(y.dtype).eps * terms * np.abs(y).max()


def check(network, x):
    """The fused network computes what its source does, and the source is left as it was."""
    state, training = copy.deepcopy(network.state_dict()), network.training
    fused = fuse(network)
    assert network.training == training
    for key, array in network.state_dict().items():
        np.testing.assert_array_equal(array, state[key], err_msg=key)
        assert array.flags.writeable == training
    expected = network.eval()(x)
    y = fused(x)
    assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(y, expected, rtol=0, atol=limit(network, expected))
    return fused


def picture(layout, dtype, size=64, channels=3):
    x = np.random.default_rng(0).standard_normal((2, channels, size, size))
    return np.array(x if layout == "channels_first" else np.moveaxis(x, 1, -1), dtype, order="C")


def layers_of(fused, kind=Layer):
    return [layer for _, layer in fused.named_layers() if isinstance(layer, kind)]


CONVOLUTIONS = {"resnet18": 20, "resnet50": 53, "googlenet": 57, "mobilenet-v2": 52}


@pytest.mark.parametrize(
    ("dtype", "layout"), [("float32", LAYOUTS[0]), ("float32", LAYOUTS[1]), ("float64", LAYOUTS[0])]
)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_networks(name, dtype, layout):
    network = with_statistics(models.create(name, num_classes=7, data_format=layout, dtype=dtype, rng=0))
    fused = check(network, picture(layout, dtype, 32))
    assert len(layers_of(fused, layers.Conv2d)) == CONVOLUTIONS[name]
    for kind in (layers.BatchNorm2d, layers.ReLU, layers.ReLU6, layers.Dropout, resnet.Block):
        assert not layers_of(fused, kind)
    sums = {"resnet18": 8, "resnet50": 16, "mobilenet-v2": 10}
    assert len(layers_of(fused, FusedSum)) == sums.get(name, 0)


def vgg_with_normalization(kit):
    stages, channels = [], 3
    for width in (32, 32, "pool", 64, 64, "pool"):
        if width == "pool":
            stages.append(kit.max_pool(2))
        else:
            stages += [kit.conv(channels, width, 3, padding=1), kit.batch_norm(width), layers.ReLU()]
            channels = width
    classifier = (kit.linear(64 * 8 * 8, 32), layers.ReLU(), kit.dropout(0.5), kit.linear(32, 5))
    return Sequential(
        {"features": Sequential(*stages), "flatten": kit.flatten(), "classifier": Sequential(*classifier)}
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_vgg_with_normalization(dtype, layout):
    network = with_statistics(vgg_with_normalization(Kit(layout, dtype, np.random.default_rng(0), None)))
    fused = check(network, picture(layout, dtype, 32))
    assert [type(layer).__name__ for layer in list(fused._layers.values())[:3]] == ["Conv2d", "Conv2d", "MaxPool2d"]
    assert all(layer.activation == "relu" for layer in layers_of(fused, Conv2d))


F64 = {"dtype": np.float64}


def conv(c_in=4, c_out=6, kernel=3, **options):
    return Conv2d(c_in, c_out, kernel, padding=kernel // 2, rng=0, **F64, **options)


def norm(channels=6, **options):
    return layers.BatchNorm2d(channels, **F64, **options)


# What is fused, and how many layers are left of it.
SMALL = {
    "norm": ((conv(), norm()), 1),
    "norm-unbiased": ((conv(bias=False), norm(bias=False)), 1),
    "norm-plain": ((conv(bias=False), norm(affine=False)), 1),
    "norm-twice": ((conv(), norm(), norm()), 1),
    "norm-and-activation": ((conv(groups=2), norm(), layers.ELU()), 1),
    "norm-with-activation": ((conv(), norm(activation="relu"), norm()), 2),
    "norm-with-activation-first": ((norm(4, activation="sigmoid"), conv()), 3),
    "depthwise": ((conv(4, 8, groups=4), norm(8), layers.ReLU6()), 1),
    "activation": ((conv(), layers.Sigmoid()), 1),
    "one-activation-alone": ((conv(), layers.Tanh(), layers.ReLU()), 2),
    "norm-after-activation": ((conv(), layers.ReLU(), norm()), 2),
    "norm-after-fused-activation": ((conv(activation="tanh"), norm()), 2),
    "slope": ((conv(), layers.LeakyReLU()), 1),
    "another-slope": ((conv(), layers.LeakyReLU(0.2)), 2),
    "another-alpha": ((conv(), layers.ELU(2.0)), 2),
    "statistics-of-the-batch": ((conv(), norm(track_running_stats=False)), 2),
    "norm-first": ((norm(4), conv()), 2),
    "nested": ((Sequential(Sequential(conv()), layers.Identity()), Sequential(norm()), layers.ReLU()), 1),
    "dropped-between": ((conv(), layers.Dropout(0.3), norm(), layers.Identity()), 1),
    "transposed": ((layers.ConvTranspose2d(4, 6, 4, 2, 1, groups=2, rng=0, **F64), norm(), layers.ReLU()), 1),
    "residual": ((conv(), norm(), layers.Residual(Sequential(conv(6), norm())), layers.ReLU()), 2),
    "residual-with-activation": (
        (layers.Residual(Sequential(conv(4, 4), layers.ReLU(), conv(4, 4)), None, "tanh"),), 1
    ),
    "residual-with-shortcut": ((layers.Residual(conv(), Sequential(conv(kernel=1), norm())), layers.Sigmoid()), 1),
    "residual-of-a-convolution-with-activation": ((layers.Residual(conv(4, 4, activation="relu")), layers.ReLU()), 2),
    "residual-of-a-pool": ((layers.Residual(layers.MaxPool2d(3, 1, 1)),), 1),
    "residual-of-nothing": ((layers.Residual(Sequential()),), 1),
    "norm-after-residual": ((layers.Residual(conv(4, 4)), norm(4)), 2),
    "parallel": ((layers.Parallel(Sequential(conv(), norm(), layers.ReLU()), layers.MaxPool2d(3, 1, 1)),), 1),
    "nothing": ((), 0),
}  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_small_networks(name, training):
    stages, count = SMALL[name]
    network = with_statistics(Sequential(*stages)).train(training)
    x = np.random.default_rng(1).standard_normal((2, 4, 8, 9))
    fused = check(network, x) if stages else fuse(network)
    assert len(fused._layers) == count
    network.train()


@pytest.mark.parametrize("ndim", [1, 3])
def test_signals_and_volumes(ndim):
    kind, transposed, norm = (getattr(layers, f"{n}{ndim}d") for n in ("Conv", "ConvTranspose", "BatchNorm"))
    body = Sequential(kind(5, 5, 3, padding=1, **F64), norm(5, **F64))
    head, tail = (kind(3, 5, 3, **F64), norm(5, **F64)), (transposed(5, 2, 2, **F64), norm(2, **F64))
    network = with_statistics(Sequential(*head, layers.Residual(body), *tail))
    fused = check(network, np.random.default_rng(0).standard_normal((2, 3, *(9, 8, 7)[:ndim])))
    assert len(fused._layers) == 3


class OwnSum(Layer):
    """A user's layer, with a convolution and a normalization inside."""

    def __init__(self):
        self.conv, self.norm = conv(4, 4), norm(4)

    def forward(self, x):
        return self.norm(self.conv(x)) + x

    def backward(self, grad_y):
        raise NotImplementedError


class Doubled(Conv2d):
    """A user's convolution, whose forward is another."""

    def forward(self, x):
        return 2 * super().forward(x)


class Softened(layers.ReLU):
    """A user's activation, whose forward is another."""

    def forward(self, x):
        return np.log1p(np.exp(x))


def test_layers_of_ones_own_are_left_as_they_are():
    own, doubled = OwnSum(), Doubled(4, 6, 3, rng=0, **F64)
    network = with_statistics(Sequential(own, doubled, norm(), conv(6), Softened()))
    fused = check(network, np.random.default_rng(0).standard_normal((2, 4, 8, 9)))
    kinds = [type(layer) for layer in fused._layers.values()]
    assert kinds == [OwnSum, Doubled, layers.BatchNorm2d, Conv2d, Softened]
    assert not {*map(id, layers_of(fused))} & {*map(id, layers_of(network))}


def test_a_layer_of_several_inputs_may_come_first():
    layer = layers.DeformConv2d(3, 4, 3, rng=0, **F64)
    x, offset = (np.random.default_rng(i).standard_normal((1, c, s, s)) for i, c, s in ((0, 3, 8), (1, 18, 6)))
    np.testing.assert_array_equal(fuse(layer)(x, offset), layer(x, offset))


def test_weights_are_rounded_once():
    layer, after = Conv2d(3, 5, 3, rng=0), layers.BatchNorm2d(5)
    network = with_statistics(Sequential(layer, after))
    (fused,) = fuse(network)._layers.values()
    scale = after.weight / np.sqrt(after.running_var.astype(np.float64) + after.eps)
    weight = layer.weight * scale[:, None, None, None]
    bias = (layer.bias - after.running_mean.astype(np.float64)) * scale + after.bias
    np.testing.assert_array_equal(fused.weight, weight.astype(np.float32))
    np.testing.assert_allclose(fused.bias, bias, rtol=np.finfo(np.float32).eps)


def test_a_fused_network_is_for_inference_alone():
    network = Sequential(conv(), norm(), layers.Residual(conv(6)))
    fused, x = fuse(network), np.random.default_rng(0).standard_normal((2, 4, 8, 9))
    expected = fused(x)
    for refused in (fused.train, lambda: fused.backward(x), list(fused._layers.values())[1].train):
        with pytest.raises(RuntimeError, match="a fused network is for inference alone: train the network"):
            refused()
    assert not any(layer.training for layer in layers_of(fused))
    with pytest.raises(ValueError, match="read-only"):
        layers_of(fused, Conv2d)[0].weight += 1
    np.testing.assert_array_equal(fused.train(False)(x), expected)
    np.testing.assert_array_equal(fused.eval(pack=False)(x), expected)
    np.testing.assert_array_equal(copy.deepcopy(fused)(x), expected)
    np.testing.assert_array_equal(fuse(fused)(x), expected)
    assert isinstance(fuse(fused), Fused)


def test_what_is_no_layer_is_refused():
    with pytest.raises(TypeError, match="network must be a Layer, got list"):
        fuse([conv()])


def test_shapes_that_never_fitted_still_do_not():
    network = Sequential(conv(), norm(5)).eval()
    x = np.zeros((1, 4, 8, 8))
    for call in (network, fuse(network)):
        with pytest.raises(ValueError, match="running_mean"):
            call(x)


def test_blocks_of_the_networks():
    kit = Kit("channels_first", np.float64, np.random.default_rng(0), None)
    for block in (resnet.Block(kit, resnet.basic(kit, 4, 4, 1), None), mobilenet.InvertedResidual(kit, 4, 6, 2, 3)):
        check(with_statistics(block), np.random.default_rng(0).standard_normal((2, 4, 9, 8)))
