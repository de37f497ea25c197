"""Networks: their parameter counts and keys, torch's results and gradients, both layouts, errors."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastconv import checkpoint, init, models
from fastconv.layers import CrossEntropyLoss
from fastconv.models import resnet
from fastconv.models.kit import Kit
from fastconv.optim import SGD

PARAMETERS = {
    "lenet5": 61_706,
    "fashion-7x7": 2_150_410,
    "fashion-maxpool": 410_890,
    "fashion-stride": 428_810,
    "fashion-1x1": 207_738,
    "cifar-maxpool": 307_498,
    "cifar-stride": 307_498,
    "alexnet": 61_100_840,
    "alexnet-2012": 60_965_224,
    "vgg16": 138_357_544,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "googlenet": 6_624_904,
    "mobilenet-v2": 3_504_872,
    "unet": 31_036_546,
}
SMALL = [name for name, network in models.NETWORKS.items() if network.size <= 32]


# The lectures' table: parameters of each layer.
VGG16_LAYERS = [
    1_792, 36_928, 73_856, 147_584, 295_168, 590_080, 590_080, 1_180_160, 2_359_808, 2_359_808, 2_359_808, 2_359_808,
    2_359_808, 102_764_544, 16_781_312, 4_097_000,
]  # fmt: skip

# Some of the keys and shapes of the files that torchvision publishes.
TORCHVISION = {
    "alexnet": {
        "features.0.weight": (64, 3, 11, 11),
        "features.10.bias": (256,),
        "classifier.1.weight": (4096, 9216),
        "classifier.6.bias": (1000,),
    },
    "vgg16": {
        "features.0.weight": (64, 3, 3, 3),
        "features.28.weight": (512, 512, 3, 3),
        "classifier.0.weight": (4096, 25088),
        "classifier.6.weight": (1000, 4096),
    },
    "resnet18": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.num_batches_tracked": (),
        "layer4.1.bn2.bias": (512,),
        "fc.weight": (1000, 512),
    },
    "resnet50": {
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer3.5.conv3.weight": (1024, 256, 1, 1),
        "layer4.2.bn3.weight": (2048,),
        "fc.weight": (1000, 2048),
    },
    "googlenet": {
        "conv1.conv.weight": (64, 3, 7, 7),
        "inception3a.branch1.bn.running_mean": (64,),
        "inception4e.branch2.1.conv.weight": (320, 160, 3, 3),
        "inception5b.branch4.1.conv.weight": (128, 832, 1, 1),
        "fc.weight": (1000, 1024),
    },
    "mobilenet-v2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.2.conv.0.1.running_mean": (96,),
        "features.14.conv.1.0.weight": (576, 1, 3, 3),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.17.conv.3.bias": (320,),
        "features.18.1.num_batches_tracked": (),
        "classifier.1.weight": (1000, 1280),
    },
}
TENSORS = {"alexnet": 16, "vgg16": 32, "resnet18": 122, "resnet50": 320, "googlenet": 344, "mobilenet-v2": 314}


@pytest.mark.parametrize("name", models.NETWORKS)
def test_parameters_are_the_published_ones(name):
    model = models.create(name, initializer=init.zeros)
    assert model.parameter_count() == PARAMETERS[name]
    if name in TORCHVISION:
        state = model.state_dict()
        assert {key: state[key].shape for key in TORCHVISION[name]} == TORCHVISION[name]
        assert len(state) == TENSORS[name]
    sizes = [parameter.size for parameter in model.parameters().values()]
    if name == "vgg16":
        assert [weight + bias for weight, bias in zip(sizes[::2], sizes[1::2], strict=True)] == VGG16_LAYERS
    if name == "alexnet-2012":
        assert sum(sizes[:2]) == 34_944


def _picture(name, batch, data_format="channels_first", dtype=np.float32):
    network = models.NETWORKS[name]
    shape = (batch, network.in_channels, network.size, network.size)
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return x if data_format == "channels_first" else np.ascontiguousarray(np.moveaxis(x, 1, -1))


@pytest.mark.parametrize("name", SMALL)
def test_both_layouts_are_one_network(name):
    first = models.create(name, dtype=np.float64, rng=0)
    last = models.create(name, dtype=np.float64, data_format="channels_last", rng=1)
    last.load_state_dict(first.state_dict())
    y = first.eval()(_picture(name, 2, dtype=np.float64))
    assert y.shape == (2, 10)
    np.testing.assert_allclose(last.eval()(_picture(name, 2, "channels_last", np.float64)), y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*SMALL, "mobilenet-v2"])
def test_small_pictures_are_learned(name):
    model, loss = models.create(name, num_classes=10, rng=0), CrossEntropyLoss()
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, target = _picture(name, 4)[..., :64, :64], np.arange(4)
    losses = []
    for _ in range(6):
        losses.append(float(loss(model(x), target)))
        model.backward_parameters(loss.backward())
        assert list(model.gradients()) == list(model.parameters())
        optimizer.step(model.gradients())
        model.zero_grad()
    assert losses[-1] < 0.8 * losses[0]


def _lenet5(state, x):
    for key in ("c1", "c3"):
        x = F.max_pool2d(F.relu(F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"])), 2)
    x = F.relu(F.conv2d(x, state["c5.weight"], state["c5.bias"])).flatten(1)
    x = F.relu(F.linear(x, state["f6.weight"], state["f6.bias"]))
    return F.linear(x, state["output.weight"], state["output.bias"])


def _conv_norm(state, conv, norm, x, stride=1):
    weight = state[f"{conv}.weight"]
    x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
    return F.batch_norm(x, None, None, state[f"{norm}.weight"], state[f"{norm}.bias"], training=True)


def _resnet(state, x, strided):
    """A residual network of two blocks, the convolution `strided` of the second one having stride 2."""
    x = F.max_pool2d(F.relu(_conv_norm(state, "conv1", "bn1", x, 2)), 3, 2, 1)
    for key, stride in (("layer1.0", 1), ("layer2.0", 2)):
        y = x
        convolutions = sum(f"{key}.conv{number}.weight" in state for number in (1, 2, 3))
        for number in range(1, convolutions + 1):
            y = y if number == 1 else F.relu(y)
            y = _conv_norm(state, f"{key}.conv{number}", f"{key}.bn{number}", y, stride if number == strided else 1)
        if f"{key}.downsample.0.weight" in state:
            x = _conv_norm(state, f"{key}.downsample.0", f"{key}.downsample.1", x, stride)
        x = F.relu(y + x)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


KIT = Kit("channels_first", np.float64, np.random.default_rng(0), init.kaiming_normal)
WITH_ORACLE = {
    "lenet5": (models.create("lenet5", dtype=np.float64, rng=0), _lenet5, (2, 1, 32, 32)),
    "basic": (resnet.residual_network(KIT, 3, 5, resnet.basic, (1, 1), 1), partial(_resnet, strided=1), (2, 3, 30, 33)),
    "bottleneck": (
        resnet.residual_network(KIT, 3, 5, resnet.bottleneck, (1, 1), 4), partial(_resnet, strided=2), (2, 3, 30, 33)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_ORACLE)
def test_outputs_and_gradients_are_torchs(name):
    model, oracle, shape = WITH_ORACLE[name]
    x, target = np.random.default_rng(0).standard_normal(shape), np.array([3, 1])
    state = {key: torch.tensor(value, requires_grad=True) for key, value in model.parameters().items()}
    x_oracle = torch.tensor(x, requires_grad=True)
    logits_oracle = oracle(state, x_oracle)
    F.cross_entropy(logits_oracle, torch.tensor(target)).backward()
    loss = CrossEntropyLoss()
    logits = model(x)
    np.testing.assert_allclose(logits, logits_oracle.detach().numpy(), rtol=1e-8, atol=1e-9)
    loss(logits, target)
    grad_x = model.backward(loss.backward())
    np.testing.assert_allclose(grad_x, x_oracle.grad.numpy(), rtol=1e-6, atol=1e-9)
    for key, gradient in model.gradients().items():
        np.testing.assert_allclose(gradient, state[key].grad.numpy(), rtol=1e-6, atol=1e-8, err_msg=key)
    model.zero_grad()


@pytest.mark.parametrize("name", ["resnet50", "googlenet", "mobilenet-v2"])
def test_small_pictures_go_through_the_large_networks_and_back(name):
    model = models.create(name, num_classes=3, rng=0)
    x = np.random.default_rng(0).standard_normal((2, 3, 40, 40)).astype(np.float32)
    y = model(x)
    assert (y.shape, y.dtype) == ((2, 3), np.float32)
    assert model.backward(np.ones_like(y)).shape == x.shape
    assert list(model.gradients()) == list(model.parameters())
    assert all(np.isfinite(gradient).all() for gradient in model.gradients().values())


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_network_is_saved_and_loaded(tmp_path, suffix):
    model, other = (models.create("lenet5", rng=seed) for seed in (0, 1))
    x = _picture("lenet5", 2)
    assert (model(x) != other(x)).any()
    checkpoint.save(tmp_path / f"lenet5{suffix}", model.state_dict())
    other.load_state_dict(checkpoint.load(tmp_path / f"lenet5{suffix}"))
    np.testing.assert_array_equal(model.eval()(x), other.eval()(x))


def test_one_seed_gives_one_network():
    first, second, third = (models.create("cifar-maxpool", rng=seed).state_dict() for seed in (0, 0, 1))
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])
    assert (first["0.weight"] != third["0.weight"]).all()


def test_lenet5_as_in_the_paper():
    model = models.create("lenet5", pooling="average", activation="tanh", initializer=init.glorot_uniform, rng=0)
    assert "AvgPool2d" in repr(model)
    assert model.parameter_count() == PARAMETERS["lenet5"]
    with pytest.raises(ValueError, match="pooling"):
        models.create("lenet5", pooling="median")


def test_classes_and_channels_can_be_chosen():
    model = models.create("fashion-1x1", in_channels=2, num_classes=7, rng=0)
    assert model(np.zeros((1, 2, 28, 28), np.float32)).shape == (1, 7)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no network 'lenet', only lenet5, fashion-7x7, .*googlenet"):
        models.create("lenet")
