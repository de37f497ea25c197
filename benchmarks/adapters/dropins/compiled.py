"""torch.compile: a model compiled by inductor, its weights frozen and packed; in training forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._inductor import config

from ...dropins import Model, TorchTraining
from ...layer import Array
from .. import Prepared, Unsupported
from .huggingface import Logits
from .pytorch import Step, given, prepared_step


class NotCompiled(RuntimeError):
    """The compiler failed; one line says why."""


def prepare(model: Model, x: Array, data_format: str) -> Prepared:
    """Either memory format in training; a frozen forward lays values out as it likes."""
    if isinstance(model, TorchTraining):
        step = prepared_step(Step(model, *given(model, x, data_format)), torch.compile)
        return Prepared(lambda: _or_why(step.build), step.arrays)
    if data_format == "channels_last":
        raise Unsupported("a memory format of its own")
    build = partial(_frozen, *given(model, x, data_format))
    return Prepared(lambda: _or_why(build), lambda y: (y.numpy(),))


def _frozen(network: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    config.freezing = True
    compiled = partial(torch.compile(Logits(network).eval().requires_grad_(False)), x)
    compiled()  # which is when it is compiled
    return compiled


def _or_why(build: Callable[[], Callable[[], Any]]) -> Callable[[], Any]:
    """What `build` makes.

    Raises
    ------
    NotCompiled
        In one line, of what may be pages.
    """
    try:
        return build()
    except Exception as error:
        raise NotCompiled(" ".join(f"{type(error).__name__}: {error}".split())[:300]) from None
