"""PyTorch: a model as it is or frozen by TorchScript, in either memory format; in training as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ...dropins import Model, Recipe, TorchTraining
from ...layer import Array
from .. import Prepared, Way
from ..networks.pytorch import frozen, laid_out
from ..pytorch import tried
from .huggingface import Logits, built


def prepare(model: Model, x: Array, data_format: str) -> Prepared:
    """Contiguous or channels_last."""
    network, pictures = given(model, x, data_format)
    if isinstance(model, TorchTraining):
        return prepared_step(Step(model, network, pictures))
    return Prepared(partial(_quickest, network, pictures), lambda y: (y.numpy(),))


def given(model: Model, x: Array, data_format: str) -> tuple[nn.Module, torch.Tensor]:
    """A model, and x for it, in this memory format."""
    assert isinstance(model.source, Recipe)
    with torch.inference_mode(False):  # which the adapter of layers has entered for good
        return laid_out(built(model.source), x, data_format)


def _quickest(network: nn.Module, x: torch.Tensor) -> Way:
    """The quicker of the model as it is and frozen: batch normalizations folded, convolutions fused by oneDNN."""
    logits = Logits(network).eval()
    ways = Way("eager", partial(logits, x)), Way("frozen", partial(frozen(logits, x), x))
    return min(ways, key=tried)


@dataclass(frozen=True)
class Step:
    """A step of training; called, it returns the loss before it."""

    training: TorchTraining
    network: nn.Module
    x: torch.Tensor

    def built(self, change: Callable[[nn.Module], Any] = lambda network: network) -> Callable[[], float]:
        """The step of the network that `change` makes of this one."""
        training, network = self.training, self.network.train()
        with torch.inference_mode(False):
            run = change(network)
            labels = torch.from_numpy(training.labels)
        optimizer = torch.optim.SGD(
            network.parameters(), training.lr, training.momentum, weight_decay=training.weight_decay
        )

        def differentiate() -> torch.Tensor:
            optimizer.zero_grad()
            loss: torch.Tensor = run(self.x, labels=labels).loss
            loss.backward()
            return loss

        def step() -> float:
            with torch.inference_mode(False), torch.enable_grad():
                loss = differentiate()
                optimizer.step()
            return loss.item()

        with torch.inference_mode(False), torch.enable_grad():
            differentiate()  # what is compiled, planned or packed at the first time is no part of a step
        return step

    def results(self, loss: float) -> tuple[Array, ...]:
        """What engines compare after the first step: its loss, and some elements of all gradients."""
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        some = torch.cat([gradient.flatten()[:: self.training.sampled] for gradient in gradients])
        return np.array([loss]), some.numpy()[None]


def prepared_step(step: Step, change: Callable[[nn.Module], Any] = lambda network: network) -> Prepared:
    """A step to be timed; `change` must keep the network's own parameters."""
    return Prepared(partial(step.built, change), step.results)
