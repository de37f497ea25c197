"""fastconv's session for ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fastconv.backends.onnx import Session

from ...dropins import Model
from ...layer import Array
from .. import Prepared


def prepare(model: Model, x: Array, data_format: str) -> Prepared:
    """Channels lie so inside; x has them first, as the model has."""
    return Prepared(partial(_ready, model.facts.path, x, data_format), lambda results: (results[0],))


def _ready(path: str, x: Array, data_format: str) -> Callable[[], Any]:
    run = partial(Session(path, data_format=data_format).run, None, {"x": x})
    run()  # which plans and packs
    return run
