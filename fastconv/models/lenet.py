"""LeNet-5, for digits of 32x32 pixels."""

from __future__ import annotations

from fastconv.geometry import check_choice
from fastconv.layers import Sequential
from fastconv.models.kit import Kit


def lenet5(
    kit: Kit, in_channels: int, num_classes: int, *, pooling: str = "max", activation: str = "relu"
) -> Sequential:
    """LeNet-5 under the paper's names of its layers: c1, s2, c3, s4, c5, f6, output; 61,706 parameters.

    x (N, 1, 32, 32) -> c1 6x28x28 -> s2 6x14x14 -> c3 16x10x10 -> s4 16x5x5 -> c5 120x1x1 -> f6 84 -> 10 logits.

    The paper averages, squashes with tanh, scales each s by a learned factor, gives c3 only some of s2's maps and ends
    in radial basis functions. Here every map of c3 sees all of s2 and the output is linear. pooling is "max" (default)
    or "average", activation "relu" (default) or any name that `Conv2d` takes: the defaults learn fastest; the paper's
    pair, "average" and "tanh", goes with `initializer=init.glorot_uniform`.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-Based Learning Applied to Document Recognition", 1998, II.B.
    """
    check_choice(pooling, "pooling", ("max", "average"))
    pool = kit.max_pool if pooling == "max" else kit.avg_pool
    return Sequential(
        {
            "c1": kit.conv(in_channels, 6, 5, activation=activation),
            "s2": pool(2),
            "c3": kit.conv(6, 16, 5, activation=activation),
            "s4": pool(2),
            "c5": kit.conv(16, 120, 5, activation=activation),
            "flatten": kit.flatten(),
            "f6": kit.linear(120, 84, activation=activation),
            "output": kit.linear(84, num_classes),
        }
    )
