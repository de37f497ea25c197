"""Each layer beside torch's of the same arguments, and a small network of ours."""

import inspect

import numpy as np
from torch import nn

from fastconv import layers

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
    "relu6": (layers.ReLU6, nn.ReLU6, (), {}, (3, 4, 5)),
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


def make_pair(name, **options):
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


def as_arrays(state):
    return {key: tensor.detach().numpy() for key, tensor in state.items()}


def assert_states_equal(ours, theirs):
    assert list(ours) == list(theirs)
    for key in ours:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-12, atol=1e-12, err_msg=key)


def last(x, unbatched=False):
    return np.ascontiguousarray(np.moveaxis(x, 0 if unbatched else 1, -1))


def network(**options):
    return layers.Sequential(
        layers.Conv2d(1, 4, 3, padding="same", activation="relu", rng=0, **options),
        layers.BatchNorm2d(4, **options),
        layers.MaxPool2d(2),
        layers.Flatten(),
        layers.Linear(4 * 3 * 3, 2, rng=1, **options),
    )
