"""Models of transformers, by their configs: random weights, the same in every process."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

from ...dropins import Recipe

SETTLING = (4, 96)  # pictures whose statistics batch normalizations have, and their size
SPREAD = 0.1  # of biases, of the scales of normalizations around 1, and of the scales of ConvNeXt's blocks


class Logits(nn.Module):
    """A model whose result is the tensor that engines compare, and nothing around it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> Any:
        return self.model(x).logits


@torch.inference_mode(False)  # whose tensors could not be trained
def built(recipe: Recipe) -> nn.Module:
    """A model in evaluation mode."""
    config = getattr(transformers, f"{recipe.family}Config")(num_labels=recipe.classes, **recipe.options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = getattr(transformers, f"{recipe.family}For{recipe.head}")(config)
        settle(model)
    return model.eval()


@torch.no_grad()
def settle(model: nn.Module) -> None:
    """Draw what begins as zeros or ones, and give batch normalizations the statistics of a few pictures, so that
    values keep their size through all layers."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter += SPREAD * torch.randn(parameter.shape)
    normalizations = {m: m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    for normalization in normalizations:
        normalization.reset_running_stats()
        normalization.momentum = None  # the mean of all batches, which is one
    if normalizations:
        count, size = SETTLING
        model.train()(torch.randn(count, 3, size, size))
    for normalization, momentum in normalizations.items():
        normalization.momentum = momentum
