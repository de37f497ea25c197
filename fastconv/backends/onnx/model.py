"""From a file, bytes or a proto to a graph; everything that a model can have wrong before it runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.inliner
from google.protobuf.message import DecodeError

from fastconv.backends.errors import ModelError
from fastconv.backends.onnx.graph import Graph, copied, nodes_of
from fastconv.backends.onnx.inference import known_sizes

Source = Any  # str | os.PathLike[str] | bytes | onnx.ModelProto


def read(source: Source) -> Graph:
    """The graph of a model, functions of the model's own inlined.

    Raises
    ------
    ModelError
        If the source is not a model, is not whole, or its nodes do not fit together.
    OSError
        If a file cannot be read.
    """
    name, model = _load(source)
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{name}: not an ONNX model, it has no graph or no opset")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if opsets.get("", 1) > newest:
        raise ModelError(f"{name}: its opset is {opsets['']}, the onnx package installed knows those up to {newest}")
    graph = _graph(name, model, opsets)
    _check_names(graph)
    return graph


def _load(source: Source) -> tuple[str, Any]:
    """What to call the source in errors, and its proto."""
    if isinstance(source, onnx.ModelProto):
        return "the model", source
    if not isinstance(source, (str, os.PathLike, bytes)):
        raise TypeError(f"model must be a path, bytes or a ModelProto, got {type(source).__name__}")
    name = "the model" if isinstance(source, bytes) else os.fspath(source)
    try:
        if isinstance(source, bytes):
            return name, onnx.load_model_from_string(source)
        model = onnx.load_model(source, load_external_data=False)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{name}: not an ONNX model ({_line(error)})") from error
    try:
        onnx.external_data_helper.load_external_data_for_model(model, str(Path(name).resolve().parent))
    except (ValueError, OSError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{name}: its weights in other files cannot be read ({_line(error)})") from error
    return name, model


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _graph(name: str, model: Any, opsets: dict[str, int]) -> Graph:
    graph = model.graph
    constants = {tensor.name: _tensor(name, tensor.name, tensor) for tensor in graph.initializer}
    for tensor in graph.sparse_initializer:
        constants[tensor.values.name] = _dense(name, tensor)
    inputs = tuple(copied(value) for value in graph.input if value.name not in constants)
    outputs, nodes = tuple(map(copied, graph.output)), list(nodes_of(graph.node, opsets))
    return Graph(inputs, outputs, nodes, constants, opsets, known_sizes(model))


def _tensor(name: str, shown: str, tensor: Any) -> Any:
    try:
        return onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{name}: initializer {shown!r} cannot be read ({_line(error)})") from error


def _dense(name: str, tensor: Any) -> Any:
    """A sparse tensor, whose indices are flat or one row a value, as an array."""
    values, indices = (_tensor(name, tensor.values.name, part) for part in (tensor.values, tensor.indices))
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def _check_names(graph: Graph) -> None:
    """Raise unless every value is made before it is read, and once."""
    known = {value.name for value in graph.inputs} | set(graph.constants)
    for node in graph.nodes:
        for name in node.reads:
            if name not in known:
                raise node.error(f"it reads {name!r}, which nothing before it makes")
        made = {name for name in node.outputs if name}
        if again := made & known:
            raise node.error(f"it makes {min(again)!r}, which is there before it")
        known |= made
    for name in graph.output_names:
        if name not in known:
            raise ModelError(f"output {name!r} of the model is made by none of its nodes")
