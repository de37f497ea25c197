"""PyTorch: the network as a torch.nn.Module, its batch normalizations folded, eager or frozen for oneDNN; in training,
eager."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse

from fastconv.layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool2d,
)

from ...layer import Array, Size
from ...networks import Inference, Training, built
from ...steps import Step, steps, window
from .. import Prepared, Way
from ..pytorch import tried

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
INPLACE = ("relu", "relu6", "leaky_relu", "elu")


def prepare(inference: Inference, x: Array, data_format: str) -> Prepared:
    """Contiguous or channels_last."""
    if isinstance(inference, Training):
        with torch.inference_mode(False):  # which the adapter of layers has entered for good
            step = trained(*laid_out(module(built(inference.network), inference.x_shape), x, data_format), inference)
        return Prepared(lambda: step, lambda loss: (np.array([loss]),))
    network = fuse(module(built(inference.network), inference.x_shape), inplace=True)
    network, pictures = laid_out(network, x, data_format)
    return Prepared(partial(_quickest, network, pictures), lambda y: (y.numpy(),))


def laid_out(network: nn.Module, x: Array, data_format: str) -> tuple[nn.Module, torch.Tensor]:
    """The network, and x for it."""
    pictures = torch.from_numpy(x)
    if data_format == "channels_last":
        network = network.to(memory_format=torch.channels_last)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
    return network, pictures


def trained(network: nn.Module, x: torch.Tensor, training: Training) -> Callable[[], float]:
    """A step, which returns the loss before it."""
    network.train().requires_grad_(True)
    optimizer = torch.optim.SGD(
        network.parameters(), training.lr, training.momentum, weight_decay=training.weight_decay
    )
    labels = torch.from_numpy(training.labels)

    def step() -> float:
        with torch.inference_mode(False), torch.enable_grad():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(x), labels)
            loss.backward()
            optimizer.step()
        return loss.item()

    return step


def _quickest(network: nn.Module, x: torch.Tensor) -> Way:
    """The quicker of the folded network as it is and frozen, its convolutions fused with what follows by oneDNN."""
    ways = Way("folded", partial(network, x)), Way("frozen", partial(frozen(network, x), x))
    return min(ways, key=tried)


def frozen(network: nn.Module, x: torch.Tensor) -> Any:
    """As TorchScript has it for inference."""
    return torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(network, x, check_trace=False)))


def module(network: Layer, x_shape: Size) -> fx.GraphModule:
    """A channels_first network of ours in evaluation mode; in-place where the value is needed nowhere else."""
    todo = steps(network, x_shape[2:])
    uses = [i for step in todo for i in step.inputs]
    modules, graph = nn.ModuleDict(), fx.Graph()
    values = [graph.placeholder("x")]
    for number, step in enumerate(todo):
        given = [values[i] for i in step.inputs]
        alone = 0 not in step.inputs and uses.count(step.inputs[0]) == 1
        if step.operator == "add":
            values.append(graph.call_function(operator.iadd if alone else operator.add, tuple(given)))
        elif step.operator == "concatenate":
            values.append(graph.call_function(torch.cat, (given, 1)))
        else:
            modules[f"v{number}"] = _module(step, alone)
            values.append(graph.call_module(f"v{number}", tuple(given)))
    graph.output(values[-1])
    return fx.GraphModule(modules, graph).eval()


def _module(step: Step, alone: bool) -> nn.Module:
    layer = step.operator
    match layer:
        case str():
            return ACTIVATIONS[layer](**({"inplace": alone} if layer in INPLACE else {}))
        case Conv2d():
            return _loaded(_convolution(layer), layer)
        case ConvTranspose2d():
            return _loaded(_transposed(layer), layer)
        case BatchNorm2d():
            return _loaded(nn.BatchNorm2d(layer.num_features, layer.eps), layer)
        case Linear():
            return _loaded(nn.Linear(layer.in_features, layer.out_features, layer.bias is not None), layer)
        case MaxPool2d():
            kernel, stride, padding, dilation, ceil = window(layer)
            return nn.MaxPool2d(kernel, stride, _before(padding), dilation, ceil_mode=ceil)
        case AvgPool2d():
            kernel, stride, padding, _, ceil = window(layer)
            return nn.AvgPool2d(kernel, stride, _before(padding), ceil)
        case GlobalAvgPool():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case Flatten():
            return nn.Flatten()
    raise TypeError(f"step must be one that PyTorch has, got {type(layer).__name__}")


def _convolution(layer: Conv2d) -> nn.Conv2d:
    kernel, stride, padding, dilation, _ = window(layer)
    return nn.Conv2d(layer.in_channels, layer.out_channels, kernel, stride, _before(padding), dilation, layer.groups,
                     layer.bias is not None)  # fmt: skip


def _transposed(layer: ConvTranspose2d) -> nn.ConvTranspose2d:
    kernel, stride, padding, dilation, _ = window(layer)
    return nn.ConvTranspose2d(layer.in_channels, layer.out_channels, kernel, stride, _before(padding),
                              layer.output_padding, layer.groups, layer.bias is not None, dilation)  # fmt: skip


def _before(padding: tuple[tuple[int, int], ...]) -> Size:
    """Of padding that is the same on both sides, as PyTorch wants it."""
    befores, afters = zip(*padding, strict=True)
    if befores != afters:
        raise ValueError(f"padding must be the same before and after, got padding={padding}")
    return befores


def _loaded(module: nn.Module, layer: Layer) -> nn.Module:
    """A module with copies of our parameters and statistics, which have PyTorch's keys."""
    module.load_state_dict({key: torch.tensor(array) for key, array in layer.state_dict().items()})
    return module
