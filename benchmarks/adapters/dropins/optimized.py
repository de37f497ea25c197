"""fastconv in a PyTorch model, in either memory format."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import fastconv
from fastconv.backends.torch import optimize

from ...dropins import Model, TorchTraining
from ...layer import Array
from .. import Prepared, pytorch
from .huggingface import Logits
from .pytorch import Step, given, prepared_step


def prepare(model: Model, x: Array, data_format: str) -> Prepared:
    """Contiguous or channels_last, in inference mode as PyTorch's own engine is."""
    if not torch.is_inference_mode_enabled():
        pytorch.start(fastconv.get_num_threads())
    network, pictures = given(model, x, data_format)
    change = partial(optimize, inplace=True)
    if isinstance(model, TorchTraining):
        return prepared_step(Step(model, network, pictures), change)
    return Prepared(partial(_ready, network, pictures), lambda y: (y.numpy(),))


def _ready(network: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    with torch.inference_mode(False):
        logits = Logits(optimize(network, inplace=True)).eval()
    for _ in range(2):  # the first call compares what is fused with what is not, the second plans and packs it
        logits(x)
    return partial(logits, x)
