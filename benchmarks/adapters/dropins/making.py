"""What is done before a row, in a process of its own: write what engines read, find out what is to be known."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dropins import Light, Model, OnnxModel, Recipe, files, made
from ...networks import pictures

if TYPE_CHECKING:
    from ...worker import Session

OPSET = 20


def make(session: Session, model: Model, folder: str) -> Model:
    """The model with its facts, whose files lie in this folder."""
    if isinstance(model.source, Light):
        return made(model, **_from_onnx(model, model.source, folder))
    return made(model, **_from_transformers(model, model.source, folder))


def _from_onnx(model: Model, source: Light, folder: str) -> dict[str, Any]:
    from . import light

    path, _ = files(folder)
    path.write_bytes(light.randomized(source.name, model.batch).SerializeToString())
    return light.facts(source.name, model.batch) | {"path": str(path)}


def _from_transformers(model: Model, source: Recipe, folder: str) -> dict[str, Any]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from .huggingface import Logits, built

    network = Logits(built(source)).eval().requires_grad_(False)
    x = torch.from_numpy(pictures(model))
    with FlopCounterMode(display=False) as counter:
        y = network(x)
    facts = {
        "multiply_adds": counter.get_total_flops() // 2,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "y_shape": tuple(y.shape),
    }
    if not isinstance(model, OnnxModel):
        return facts
    path, expected = files(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a newer exporter, which needs another package
        torch.onnx.export(network, (x,), path, dynamo=False, opset_version=OPSET, input_names=["x"], output_names=["y"])
    np.save(expected, y.numpy())
    return facts | {"path": str(path), "expected": str(expected)}
