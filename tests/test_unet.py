"""U-Net beside the same network in PyTorch: keys, parameters, outputs and gradients; layouts, fusing, errors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import LAYOUTS, laid_out
from torch import nn

from fastconv import init, models, training
from fastconv.layers import BatchNorm2d, CrossEntropyLoss, ReLU, fuse
from fastconv.optim import Adam

WIDTHS = (4, 6, 10)
SHAPE = (2, 3, 20, 12)


def convolutions(in_channels, width):
    """Two 3x3 convolutions, each normalized and followed by ReLU."""
    stages = []
    for channels in (in_channels, width):
        stages += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*stages)


class TorchUNet(nn.Module):
    """What a user of PyTorch writes."""

    def __init__(self, in_channels, num_classes, widths):
        super().__init__()
        self.levels = len(widths)
        for level, (channels, width) in enumerate(zip((in_channels, *widths), widths, strict=False), start=1):
            self.add_module(f"down{level}", convolutions(channels, width))
        for level in range(self.levels - 1, 0, -1):
            below, width = widths[level], widths[level - 1]
            self.add_module(f"up{level}", nn.ConvTranspose2d(below, width, 2, stride=2))
            self.add_module(f"join{level}", convolutions(2 * width, width))
        self.classifier = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x):
        seen = [self.down1(x)]
        for level in range(2, self.levels + 1):
            seen.append(getattr(self, f"down{level}")(F.max_pool2d(seen[-1], 2)))
        y = seen[-1]
        for level in range(self.levels - 1, 0, -1):
            both = torch.cat([seen[level - 1], getattr(self, f"up{level}")(y)], 1)
            y = getattr(self, f"join{level}")(both)
        return self.classifier(y)


def pair(data_format="channels_first", dtype="float64", widths=WIDTHS):
    """Ours and torch's with the same weights, in training mode."""
    torch.manual_seed(0)
    theirs = TorchUNet(3, 5, widths).to(getattr(torch, dtype))
    ours = models.create("unet", in_channels=3, num_classes=5, widths=widths, data_format=data_format, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def first(array, data_format):
    """The array, seen with its channels first."""
    return np.moveaxis(array, -1, 1) if data_format == "channels_last" else array


def limit(network, expected, dtype):
    """Roundings of all layers' sums, which go either way, relative to the largest value; see tolerance.py.

    Each parameter's gradient and each normalization sums over pictures, too: 2 of 240 pixels or fewer.
    """
    parameters = network.parameters().values()
    terms = sum(parameter.size // len(parameter) + 480 for parameter in parameters)
    return 2 * np.finfo(dtype).eps * np.sqrt(terms) * max(1e-3, np.abs(expected).max())


def test_parameters_are_those_of_the_paper_and_of_normalizations():
    ours = models.create("unet", initializer=init.zeros)
    with torch.device("meta"):
        theirs = TorchUNet(1, 2, (64, 128, 256, 512, 1024))
    assert {key: array.shape for key, array in ours.state_dict().items()} == {
        key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()
    }
    assert list(ours.parameters()) == [key for key, _ in theirs.named_parameters()]
    # Figure 1: 31,030,658 with a bias for each of 5,888 channels, in whose place are a normalization's weight and bias.
    assert ours.parameter_count() == sum(p.numel() for p in theirs.parameters()) == 31_030_658 + 5_888


@pytest.mark.parametrize("data_format", LAYOUTS)
@pytest.mark.parametrize("widths", [WIDTHS, (4,), (3, 7)])
def test_outputs_and_gradients_are_torchs(widths, data_format):
    ours, theirs = pair(data_format, widths=widths)
    x = np.random.default_rng(0).standard_normal(SHAPE)
    labels = np.random.default_rng(1).integers(0, 5, (2, 20, 12))
    given = torch.tensor(x, requires_grad=True)
    logits = theirs(given)
    F.cross_entropy(logits, torch.tensor(labels)).backward()
    y, loss = ours(laid_out(x, data_format, "float64")), CrossEntropyLoss()
    assert first(y, data_format).shape == (2, 5, 20, 12)
    expected = logits.detach().numpy()
    np.testing.assert_allclose(first(y, data_format), expected, rtol=0, atol=limit(ours, expected, y.dtype))
    loss(first(y, data_format), labels)
    grad_x = ours.backward(laid_out(loss.backward(), data_format, "float64"))
    expected = given.grad.numpy()
    np.testing.assert_allclose(first(grad_x, data_format), expected, rtol=0, atol=limit(ours, expected, y.dtype))
    for key, parameter in theirs.named_parameters():
        expected = parameter.grad.numpy()
        atol = limit(ours, expected, y.dtype)
        np.testing.assert_allclose(ours.gradients()[key], expected, rtol=0, atol=atol, err_msg=key)
    for key, value in theirs.state_dict().items():  # running statistics
        np.testing.assert_allclose(ours.state_dict()[key], value, rtol=1e-12, atol=1e-14, err_msg=key)
    assert theirs.load_state_dict({key: torch.tensor(value) for key, value in ours.state_dict().items()})


@pytest.mark.parametrize("data_format", LAYOUTS)
def test_gradients_of_the_parameters_alone_are_the_same(data_format):
    ours, _ = pair(data_format)
    x = laid_out(np.random.default_rng(0).standard_normal(SHAPE), data_format, "float64")
    grad_y = np.random.default_rng(1).standard_normal(ours(x).shape)
    ours.backward(grad_y)
    both = ours.gradients()
    ours.zero_grad()
    ours(x)
    ours.backward_parameters(grad_y)
    assert list(ours.gradients()) == list(ours.parameters())
    for key, gradient in ours.gradients().items():
        np.testing.assert_array_equal(gradient, both[key], err_msg=key)


@pytest.mark.parametrize("data_format", LAYOUTS)
def test_fused_it_computes_the_same(data_format):
    ours, theirs = pair(data_format, "float32")
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    ours(laid_out(x, data_format, "float32"))  # running statistics
    theirs.load_state_dict({key: torch.tensor(value) for key, value in ours.state_dict().items()})
    with torch.inference_mode():
        expected = theirs.eval()(torch.tensor(x)).numpy()
    fused = fuse(ours)
    for network in (ours.eval(), fused):
        y = first(network(laid_out(x, data_format, "float32")), data_format)
        np.testing.assert_allclose(y, expected, rtol=0, atol=limit(ours, expected, np.float32))
    assert not any(isinstance(layer, BatchNorm2d | ReLU) for _, layer in fused.named_layers())
    size = (2, 3, 18, 12)
    with pytest.raises(ValueError, match="outputs that differ in channels alone, got skip: "):
        fused(laid_out(np.zeros(size), data_format, "float32"))


def test_it_learns_where_a_square_is():
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((8, 1, 16, 16)).astype(np.float32), np.zeros((8, 16, 16), np.int64)
    for picture, label, (row, column) in zip(x, labels, rng.integers(0, 10, (8, 2)), strict=True):
        label[row : row + 6, column : column + 6] = 1
        picture += 2 * label
    ours, loss = models.create("unet", widths=(8, 16), rng=0), CrossEntropyLoss()
    optimizer = Adam(ours.parameters(), lr=0.01)
    for _ in range(40):
        loss(ours(x), labels)
        ours.zero_grad()
        ours.backward_parameters(loss.backward())
        optimizer.step(ours.gradients())
    assert (ours(x).argmax(1) == labels).mean() > 0.97  # of all pixels, 14 % of which are in a square


@pytest.mark.parametrize(
    ("data_format", "shape", "shown"),
    [
        ("channels_first", (1, 3, 20, 10), r"\(N, C, H, W\) with H and W multiples of 4, got x.shape=\(1, 3, 20, 10\)"),
        ("channels_last", (1, 18, 20, 3), r"\(N, H, W, C\) with H and W multiples of 4, got x.shape=\(1, 18, 20, 3\)"),
        ("channels_first", (3, 20, 12), r"got x.shape=\(3, 20, 12\)"),
    ],
)
def test_pictures_that_cannot_be_halved_are_refused(data_format, shape, shown):
    with pytest.raises(ValueError, match=shown):
        models.create("unet", in_channels=3, widths=WIDTHS, data_format=data_format)(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("widths", "error", "shown"),
    [
        ((), ValueError, "widths must be those of at least one level, got none"),
        ((4, 0), ValueError, "widths must be .*0"),
        ((4, 8.0), TypeError, "widths must be .*8.0"),
    ],
)
def test_widths_are_checked(widths, error, shown):
    with pytest.raises(error, match=shown):
        models.create("unet", widths=widths)


def test_it_is_not_trained_as_a_classifier(tmp_path):
    with pytest.raises(ValueError, match=r"model must be one of lenet5, .*got 'unet'"):
        training.train("unet", None, tmp_path)
    assert not list(tmp_path.iterdir())
