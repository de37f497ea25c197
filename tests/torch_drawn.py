"""Networks of steps drawn at random, for tests of what may be fused in them."""

import operator
import random

import torch
import torch.nn.functional as F
from torch import nn

LAYERS = {
    "conv": lambda rng: nn.Conv2d(4, 4, 3, padding=1, bias=rng.random() < 0.5, groups=rng.choice([1, 2, 4])),
    "conv_transpose": lambda rng: nn.ConvTranspose2d(4, 4, 3, padding=1),
    "norm": lambda rng: nn.BatchNorm2d(4),
    "relu": lambda rng: nn.ReLU(inplace=rng.random() < 0.5),
    "pool": lambda rng: nn.MaxPool2d(3, 1, 1),
    "identity": lambda rng: nn.Identity(),
}
OPERATIONS = {
    "add": operator.add, "iadd": operator.iadd, "add_": torch.Tensor.add_, "scale": lambda a, b: a.mul_(0.5),
    "tanh": lambda a, b: torch.tanh(a), "relu of it": lambda a, b: F.relu(a),
}  # fmt: skip


class Drawn(nn.Module):
    """Steps drawn at random, each of any values before it, some of which write to these."""

    def __init__(self, seed):
        super().__init__()
        rng, self.layers, self.steps = random.Random(seed), nn.ModuleDict(), []
        for place in range(rng.randint(4, 14)):
            kind = rng.choice([*LAYERS, *OPERATIONS, "conv", "conv", "norm", "add"])
            if kind in LAYERS:
                self.layers[str(place)] = LAYERS[kind](rng)
            first = rng.choice([place, place, place, rng.randint(0, place)])  # mostly what was computed last
            self.steps.append((kind, first, rng.randint(0, place)))

    def forward(self, x):
        values = [x]
        for place, (kind, first, second) in enumerate(self.steps):
            a, b = values[first], values[second]
            values.append(self.layers[str(place)](a) if kind in LAYERS else OPERATIONS[kind](a, b))
        return values[-1], values[len(values) // 2]
