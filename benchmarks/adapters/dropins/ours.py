"""fastconv's drop-ins: a PyTorch model that is optimized, a session for an ONNX file."""

from __future__ import annotations

from importlib import import_module

from ...dropins import Model, OnnxModel
from ...layer import Array
from .. import Prepared


def prepare(model: Model, x: Array, data_format: str) -> Prepared:
    """In either layout. Nothing of PyTorch is loaded beside a session."""
    module = import_module(f".{'session' if isinstance(model, OnnxModel) else 'optimized'}", __package__)
    prepared: Prepared = module.prepare(model, x, data_format)
    return prepared
