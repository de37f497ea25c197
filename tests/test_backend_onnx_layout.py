"""Values whose channels lie last in memory give what they give lying first, and lie last themselves."""

from functools import partial

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'fastconv[onnx]'")

from onnx import TensorProto, helper
from onnx_models import model, node, normal, run_operator
from tolerance import assert_within

from fastconv.backends.errors import ModelError
from fastconv.backends.onnx import Session
from fastconv.backends.onnx.graph import nodes_of
from fastconv.backends.onnx.kernels import OPERATORS
from fastconv.backends.onnx.layout import lies_last, lying_last

pytestmark = pytest.mark.isa_independent

EPS = float(np.finfo(np.float32).eps)
X = normal(2, 6, 5, 4)
CHANNEL = [normal(6, seed=seed) for seed in range(1, 4)] + [np.abs(normal(6, seed=4))]

CASES = {
    "Conv": ((normal(4, 3, 3, 3, seed=5), CHANNEL[0][:4]), {"group": 2, "pads": [1, 0, 2, 1]}),
    "ConvTranspose": ((normal(6, 2, 3, 3, seed=5), CHANNEL[0][:4]), {"group": 2, "strides": [2, 1]}),
    "ConvTranspose grown": ((normal(6, 4, 3, 3, seed=5), CHANNEL[0][:4]), {"output_shape": [20, 20]}),
    "MaxPool": ((), {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1], "strides": [2, 1]}),
    "AveragePool": ((), {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1], "dilations": [1, 2]}),
    "LpPool": ((), {"kernel_shape": [3, 2], "p": 3}),
    "GlobalAveragePool": ((), {}),
    "GlobalMaxPool": ((), {}),
    "BatchNormalization": (tuple(CHANNEL), {}),
    "InstanceNormalization": (tuple(CHANNEL[:2]), {}),
    "LRN": ((), {"size": 3}),
    "LayerNormalization": ((normal(4, seed=6),), {}),
    "Softmax": ((), {"axis": 1}),
    "Add": ((normal(6, 1, 1, seed=7),), {}),
    "Max": ((normal(2, 6, 5, 4, seed=7), normal(4, seed=8)), {}),
    "Clip": ((np.float32(-0.5)[()],), {}),
    "Concat": ((lying_last(normal(2, 3, 5, 4, seed=9)),), {"axis": 1}),
    "Concat of both": ((normal(2, 3, 5, 4, seed=9),), {"axis": 1}),
    "Resize": ((None, None, np.array([2, 6, 7, 9])), {"mode": "linear"}),
    "Slice": ((np.array([1]), np.array([5]), np.array([1])), {}),
    "Flatten": ((), {"axis": 2}),
    **{op: ((), {}) for op in ("Relu", "LeakyRelu", "HardSwish", "HardSigmoid", "Gelu", "Erf", "Exp", "Neg")},
}
LIE_LAST = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "BatchNormalization", "Add", "Max", "Clip", "Concat",
            "LRN", "Slice", "Resize", "Relu", "LeakyRelu", "HardSwish", "HardSigmoid", "Gelu", "Erf", "Exp",
            "Neg"}  # fmt: skip


@pytest.mark.parametrize("packed", [True, False], ids=["constant", "given"])
@pytest.mark.parametrize("name", CASES)
def test_operators(name, packed):
    others, attributes = CASES[name]
    op = name.split()[0]
    constants = range(1, len(others) + 1) if packed and op != "Concat" else ()
    run = partial(run_operator, op, constants=constants, **attributes)
    first, last = run(X, *others), run(lying_last(X), *others)
    assert_within(last, first.astype(np.float64), 64 * EPS * np.abs(first).max(), np.float32)


@pytest.mark.parametrize("op", sorted(LIE_LAST))
def test_results_lie_as_their_input(op):
    others, attributes = CASES[op]
    names = [f"x{i}" if other is not None else "" for i, other in enumerate((X, *others))]
    (proto,) = nodes_of([node(op, "", "y", **attributes)], {"": 22})
    kernel = OPERATORS[op](proto.but(inputs=tuple(names)), {})
    assert lies_last(kernel.run(lying_last(X), *others))
    if op not in ("Concat", "Slice"):  # one is given an array that lies last, the other gives a view
        assert kernel.run(X, *others).flags.c_contiguous


def test_parts_lie_as_their_whole():
    (proto,) = nodes_of([node("Split", "x", "a b", axis=1, split=[2, 4])], {"": 11})
    for part, expected in zip(OPERATORS["Split"](proto, {}).run(lying_last(X)), (X[:, :2], X[:, 2:]), strict=True):
        assert lies_last(part)
        np.testing.assert_array_equal(part, expected)


def test_a_block_that_turns_its_values_about_copies_none():
    """Transposes are views, and the convolution between them takes its pixels in place."""
    nodes = [
        node("Transpose", "x", "image", perm=[0, 3, 1, 2]), node("Conv", "image w", "c", pads=[1, 1, 1, 1]),
        node("Add", "c image", "a"), node("Transpose", "a", "y", perm=[0, 2, 3, 1]),
    ]  # fmt: skip
    x, w = normal(2, 12, 12, 16), normal(16, 16, 3, 3, seed=1)
    profile = Session(model(nodes, {"x": x}, "y", {"w": w})).profile({"x": x})
    plans = [timing.plan for timing in profile.timings if timing.operator == "Conv+Add"]
    assert "pixels" in plans[0] or "winograd" in plans[0]
    image = np.moveaxis(x, -1, 1)
    whole = run_operator("Conv", image, w, pads=[1, 1, 1, 1]) + image
    np.testing.assert_allclose(profile.outputs[0], np.moveaxis(whole, 1, -1), rtol=64 * EPS, atol=64 * EPS * 16)


@pytest.mark.parametrize("shape", [(), (3,), (2, 6)])
def test_an_input_that_is_no_image(shape):
    """Nothing declares its shape: the node that cannot take it is named."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    session = Session(model([node("Conv", "x w", "y", name="conv")], [x], "y", {"w": normal(4, 6, 3, 3)}))
    with pytest.raises(ModelError, match="Conv 'conv'"):
        session.run({"x": normal(*shape)})


def test_an_unknown_data_format():
    with pytest.raises(ValueError, match="data_format must be 'channels_first' or 'channels_last', got"):
        Session(model([node("Relu", "x", "y")], {"x": X}, "y"), data_format="NHWC")
