"""Small ONNX models, made of nodes and arrays."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from fastconv.backends.onnx import Session

OPSET = 22
IR_VERSION = 10


def node(op, inputs, outputs, **attributes):
    """A node; names are given in one string."""
    return helper.make_node(op, inputs.split(), outputs.split(), name=attributes.pop("name", None), **attributes)


def declared(name, array=None, shape=None):
    """An input like an array, of another shape if one is given, or an output of which nothing is declared."""
    if array is None:
        return helper.make_empty_tensor_value_info(name)
    element = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, element, array.shape if shape is None else shape)


def model(nodes, inputs, outputs, constants=None, opset=OPSET, functions=(), **domains):
    """A ModelProto: inputs are ValueInfoProtos or arrays by name, outputs such protos or names, constants arrays."""
    inputs = [declared(name, array) for name, array in inputs.items()] if isinstance(inputs, dict) else inputs
    outputs = [declared(name) for name in outputs.split()] if isinstance(outputs, str) else outputs
    weights = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    versions = [helper.make_opsetid("", opset), *(helper.make_opsetid(*pair) for pair in domains.items())]
    return helper.make_model(graph, opset_imports=versions, ir_version=IR_VERSION, functions=functions)


def run_operator(op, *arrays, outputs=1, opset=OPSET, constants=(), **attributes):
    """The outputs of one operator, of which the inputs at the positions of `constants` are initializers."""
    names = [f"x{position}" if array is not None else "" for position, array in enumerate(arrays)]
    made = [f"y{number}" for number in range(outputs)]
    given = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    known = {names[position]: arrays[position] for position in constants if arrays[position] is not None}
    feeds = {name: array for name, array in given.items() if name not in known}
    proto = model([helper.make_node(op, names, made, **attributes)], feeds, " ".join(made), known, opset)
    results = Session(proto).run(feeds)
    return results[0] if outputs == 1 else results


def operators(session, feeds):
    """What runs, step by step: the operators of each, joined by +."""
    return [timing.operator for timing in session.profile(feeds).timings]


def normal(*shape, seed=0, dtype=np.float32):
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


FLOAT = TensorProto.FLOAT
