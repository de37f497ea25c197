"""Shapes that values have whatever is fed, by onnx's own inference.

Only the shapes of the model's inputs, which a session checks, are believed; what the model says of values in between is
not. Large constants take part by their shapes alone: inference copies the model.
"""

from __future__ import annotations

from typing import Any

import onnx

Sizes = tuple[int | None, ...]

READ = 64  # elements of constants whose values may be shapes or axes themselves
UNKNOWN = "fastconv.unknown"


def known_sizes(model: Any) -> dict[str, Sizes]:
    """The shape of each value whose number of axes is known; None stands for a size that is not."""
    graph = onnx.GraphProto()
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1 or (tensor.dims and tensor.dims[0] > READ):
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tuple(tensor.dims)))
        else:
            graph.initializer.append(tensor)
    constants = {tensor.name for tensor in model.graph.initializer}
    graph.input.extend(value for value in model.graph.input if value.name not in constants)
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(value.name) for value in model.graph.output)
    graph.node.extend(model.graph.node)
    for node in graph.node:
        if any(attribute.name == "ceil_mode" and attribute.i for attribute in node.attribute):
            node.domain = UNKNOWN  # a window that begins in the padding counts in some versions, not in others
    small = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        inferred = onnx.shape_inference.infer_shapes(small, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError):  # such a model raises when it is run, and tells where
        return {}
    values = (*model.graph.input, *inferred.value_info, *inferred.output)
    known = {value.name: _sizes(value) for value in values if value.type.tensor_type.HasField("shape")}
    return known | {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def _sizes(value: Any) -> Sizes:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)
