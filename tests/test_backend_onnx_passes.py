"""What is done to a graph before it runs: each fusion is made where it may be, nowhere else, and changes no result."""

import random

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'fastconv[onnx]'")

from onnx import helper
from onnx_models import declared, model, node, normal, operators
from tolerance import assert_within

import fastconv as fc
from fastconv.backends.onnx import Session

pytestmark = pytest.mark.isa_independent

EPS = float(np.finfo(np.float32).eps)
X = normal(2, 4, 6, 5)
CONSTANTS = {
    "w": normal(4, 4, 3, 3, seed=1),
    "w2": normal(4, 2, 3, 3, seed=2),
    "b": normal(4, seed=3),
    "k": normal(4, 1, 1, seed=4),
    "k4": normal(1, 4, 1, 1, seed=5),
    "one": np.full((1,), 1.5, np.float32),
    "plane": normal(6, 5, seed=6),
    "scale": np.abs(normal(4, seed=7)),
    "shift": normal(4, seed=8),
    "mean": normal(4, seed=9),
    "var": np.abs(normal(4, seed=10)) + 0.5,
    "m": normal(5, 7, seed=11),
    "m_bias": normal(7, seed=12),
    "scale7": np.abs(normal(7, seed=13)) + 0.5,
    "scale5": np.abs(normal(5, seed=14)) + 0.5,
    "shift5": normal(5, seed=15),
    "six": np.array(6, np.float32),
    "zero": np.array(0, np.float32),
    "half": np.array(0.5, np.float32),
    "plus": np.array(1, np.float32),
    "root": np.array(2**0.5, np.float32),
    "pads": np.array([0, 0, 1, 0, 0, 0, 2, 1]),
    "shape": np.array([2, 2]),
}
CONV = node("Conv", "x w b", "c", pads=[1, 1, 1, 1])
BN, BN7 = "scale shift mean var", "scale7 m_bias m_bias scale7"


def conv_bn(x="x", y="n", **attributes):
    return [
        node("Conv", f"{x} w b", f"{y}_", pads=[1, 1, 1, 1], **attributes),
        node("BatchNormalization", f"{y}_ {BN}", y),
    ]


def check(nodes, expected, outputs="y", feeds=None):
    """The optimized model runs these operators, and computes what one does that keeps every value."""
    feeds = feeds or ({"rows": normal(3, 5)} if "rows" in nodes[0].input else {"x": X})
    made = [name for n in nodes for name in n.output if name]
    session = Session(model(nodes, feeds, outputs, CONSTANTS))
    assert operators(session, feeds) == expected.split()
    plain = dict(zip(made, Session(model(nodes, feeds, " ".join(made), CONSTANTS)).run(feeds), strict=True))
    for name, y in zip(outputs.split(), session.run(feeds), strict=True):
        # A few roundings in another order; sums of 36 products of a convolution are the longest.
        assert_within(y, plain[name].astype(np.float64), 64 * EPS * max(1, np.abs(plain[name]).max()), np.float32)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([*conv_bn(y="y")], "Conv+BatchNormalization"),
        ([*conv_bn(), node("Relu", "n", "y")], "Conv+BatchNormalization+Relu"),
        ([CONV, node("Add", "c k", "a"), node("Relu", "a", "y")], "Conv+Add+Relu"),
        ([CONV, node("Add", "k4 c", "y")], "Conv+Add"),
        ([CONV, node("Sub", "c k", "y")], "Conv+Sub"),
        ([CONV, node("Sub", "k c", "y")], "Conv+Sub"),
        ([CONV, node("Mul", "c k", "a"), node("Add", "a k4", "y")], "Conv+Mul+Add"),
        ([CONV, node("Mul", "one c", "y")], "Conv+Mul"),
        ([CONV, node("Div", "c k", "y")], "Conv+Div"),
        ([node("Conv", "x w", "c"), node("Add", "c k", "y")], "Conv+Add"),
        ([node("Conv", "x w2", "c", group=2), node("BatchNormalization", f"c {BN}", "y")], "Conv+BatchNormalization"),
        (
            [node("ConvTranspose", "x w2", "c", group=2, strides=[2, 2]), node("BatchNormalization", f"c {BN}", "n"),
             node("LeakyRelu", "n", "y")],
            "ConvTranspose+BatchNormalization+LeakyRelu",
        ),
        (
            [node("BatchNormalization", f"x {BN}", "n"), node("Mul", "n k", "a"), node("Relu", "a", "y")],
            "BatchNormalization+Mul+Relu",
        ),
        ([CONV, node("Clip", "c zero six", "y")], "Conv+Clip"),
        ([CONV, node("Clip", "c zero", "y")], "Conv+Clip"),
        ([CONV, node("Elu", "c", "y")], "Conv+Elu"),
        ([CONV, node("Sigmoid", "c", "y")], "Conv+Sigmoid"),
        ([CONV, node("Tanh", "c", "y")], "Conv+Tanh"),
        ([CONV, node("HardSwish", "c", "y")], "Conv+HardSwish"),
        ([CONV, node("Sigmoid", "c", "s"), node("Mul", "c s", "y")], "Conv+Sigmoid+Mul"),
        ([CONV, node("HardSigmoid", "c", "s", alpha=1 / 6), node("Mul", "s c", "y")], "Conv+HardSigmoid+Mul"),
        ([CONV, node("HardSigmoid", "c", "s"), node("Mul", "s c", "y")], "Conv HardSigmoid Mul"),
        (
            [CONV, node("Div", "c root", "d"), node("Erf", "d", "e"), node("Add", "e plus", "a"),
             node("Mul", "c a", "m1"), node("Mul", "m1 half", "y")],
            "Conv+Div+Erf+Add+Mul+Mul",
        ),
        ([CONV, node("Identity", "c", "i"), node("Dropout", "i", "d"), node("Relu", "d", "y")], "Conv+Relu"),
        ([*conv_bn(), node("Add", "n x", "a"), node("Relu", "a", "y")], "Conv+BatchNormalization+Add+Relu"),
        ([*conv_bn(), node("Sum", "x n", "y")], "Conv+BatchNormalization+Sum"),
        (
            [*conv_bn(), *conv_bn(y="o"), node("Add", "o n", "a"), node("Relu", "a", "y")],
            "Conv+BatchNormalization Conv+BatchNormalization+Add+Relu",
        ),
        ([node("Pad", "x pads", "p"), node("Conv", "p w b", "c"), node("Relu", "c", "y")], "Pad+Conv+Relu"),
        ([node("MatMul", "x m", "p"), node("Add", "m_bias p", "a"), node("Relu", "a", "y")], "MatMul+Add+Relu"),
        ([node("Gemm", "rows m", "g"), node("BatchNormalization", f"g {BN7}", "y")], "Gemm+BatchNormalization"),
        ([node("Sigmoid", "x", "s"), node("Mul", "s x", "y")], "Sigmoid+Mul"),
        (
            [node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "e plus", "a"), node("Mul", "x a", "m1"),
             node("Mul", "m1 half", "y")],
            "Div+Erf+Add+Mul+Mul",
        ),
        (
            [node("Mul", "x half", "h"), node("Div", "x root", "d"), node("Erf", "d", "e"), node("Add", "plus e", "a"),
             node("Mul", "h a", "y")],
            "Div+Erf+Add+Mul+Mul",
        ),
    ],
)  # fmt: skip
def test_joined(nodes, expected):
    check(nodes, expected)


@pytest.mark.parametrize("shift", ["", "shift5"])
@pytest.mark.parametrize("bias", ["", "m_bias"])
def test_scales_of_a_normalization_go_into_the_product_after_it(shift, bias):
    nodes = [node("LayerNormalization", f"rows scale5 {shift}", "n"), node("Gemm", f"n m {bias}", "y")]
    check(nodes, "LayerNormalization Gemm")
    rows = normal(3, 5)
    alone = Session(model(nodes, {"rows": rows}, "y", CONSTANTS))._program
    assert alone.steps[0].reads == ("rows",)
    shared = Session(model([*nodes, node("Relu", "n", "r")], {"rows": rows}, "y r", CONSTANTS))._program
    assert shared.steps[0].reads[:2] == ("rows", "scale5")


@pytest.mark.parametrize(
    ("nodes", "outputs", "expected"),
    [
        ([CONV, node("Relu", "c", "y")], "y c", "Conv Relu"),
        ([CONV, node("Relu", "c", "r"), node("Add", "c r", "y")], "y", "Conv Relu Add"),
        ([CONV, node("Add", "c c", "y")], "y", "Conv Add"),
        ([CONV, node("Relu", "c", "r"), node("Add", "r k", "y")], "y", "Conv+Relu Add"),
        (
            [CONV, node("Add", "c x", "a"), node("BatchNormalization", f"a {BN}", "y")],
            "y",
            "Conv+Add BatchNormalization",
        ),
        ([CONV, node("Div", "k c", "y")], "y", "Conv Div"),
        ([CONV, node("LeakyRelu", "c", "y", alpha=0.3)], "y", "Conv LeakyRelu"),
        ([CONV, node("Mul", "c plane", "y")], "y", "Conv Mul"),
        ([node("Conv", "x x_w", "c"), node("Mul", "c k", "y")], "y", "Conv Mul"),
        ([node("MaxPool", "x", "p", kernel_shape=[2, 2]), node("Relu", "p", "y")], "y", "MaxPool Relu"),
        ([node("Sigmoid", "x", "s"), node("Mul", "s x", "y")], "y s", "Sigmoid Mul"),
        ([node("Erf", "x", "e"), node("Add", "e plus", "a"), node("Mul", "x a", "y")], "y", "Erf Add Mul"),
        ([node("ConvTranspose", "x w", "c", pads=[1, 1, 1, 1]), node("Add", "c x", "y")], "y", "ConvTranspose Add"),
    ],
)
def test_not_joined(nodes, outputs, expected):
    """Where somebody else reads what is between, or the sum comes out another."""
    weight = {"x_w": normal(4, 4, 3, 3, seed=20)} if any("x_w" in n.input for n in nodes) else {}
    check(nodes, expected, outputs, {"x": X, **weight})


def test_a_residual_of_another_shape_is_broadcast():
    r = normal(2, 1, 6, 5, seed=21)
    check([CONV, node("Add", "c r", "a"), node("Relu", "a", "y")], "Conv+Add+Relu", feeds={"x": X, "r": r})
    large = normal(3, 2, 4, 6, 5, seed=22)
    check([CONV, node("Add", "c r", "y")], "Conv+Add", feeds={"x": X, "r": large})
    line = normal(7, seed=23)
    check([node("MatMul", "x m", "p"), node("Add", "p r", "y")], "MatMul+Add", feeds={"x": X, "r": line})


def test_constants_are_folded():
    """Shapes that exporters compute, and weights that are made by nodes."""
    nodes = [
        node("ConstantOfShape", "shape", "ones", value=helper.make_tensor("v", 1, [1], [1.0])),
        node("Mul", "ones half", "halves"),
        node("Exp", "halves", "e"),
        node("Gather", "x first", "row"),
        node("MatMul", "row e", "y"),
    ]
    proto = model(nodes, {"x": X[0, 0, :, :2]}, "y", {**CONSTANTS, "first": np.array([0])})
    session = Session(proto)
    feeds = {"x": X[0, 0, :, :2].copy()}
    assert operators(session, feeds) == ["Gather", "MatMul"]
    np.testing.assert_allclose(session.run(feeds)[0], feeds["x"][:1] @ np.full((2, 2), np.exp(0.5)), rtol=4 * EPS)


def test_random_numbers_are_not_folded():
    session = Session(model([node("RandomNormal", "", "y", shape=[4, 4])], {}, "y"))
    assert (session.run({})[0] != session.run({})[0]).any()


def test_an_output_that_is_a_constant_or_an_input():
    session = Session(model([node("Identity", "x", "y"), node("Exp", "half", "e")], {"x": X}, "y e", CONSTANTS))
    y, e = session.run({"x": X})
    np.testing.assert_array_equal(y, X)
    assert e == np.exp(np.float32(0.5))


def test_nodes_that_nobody_reads_are_left_out():
    nodes = [node("Relu", "x", "y"), node("Exp", "x", "unused"), node("Neg", "unused", "also")]
    assert operators(Session(model(nodes, {"x": X}, "y")), {"x": X}) == ["Relu"]


def test_a_value_that_a_subgraph_reads_is_neither_joined_nor_renamed():
    branch = helper.make_graph([node("Neg", "c", "t")], "then", [], [declared("t")])
    other = helper.make_graph([node("Identity", "i", "e")], "else", [], [declared("e")])
    nodes = [
        CONV, node("Relu", "c", "r"), node("Identity", "r", "i"),
        node("If", "flag", "y", then_branch=branch, else_branch=other),
    ]  # fmt: skip
    session = Session(model(nodes, {"x": X, "flag": np.array(True)}, "y", CONSTANTS))
    c = fc.conv2d(X, CONSTANTS["w"], CONSTANTS["b"], padding=1)
    for flag, expected in ((True, -c), (False, np.maximum(c, 0))):
        (y,) = session.run({"x": X, "flag": np.array(flag)})
        np.testing.assert_allclose(y, expected, rtol=64 * EPS, atol=64 * EPS)


def test_every_value_is_freed_after_its_last_use():
    nodes = [
        node("Relu", "x", "a"), node("Exp", "a", "b"), node("Add", "a b", "c"), node("Neg", "b", "d"),
        node("Mul", "c d", "y"), node("Abs", "a", "z"),
    ]  # fmt: skip
    session = Session(model(nodes, {"x": X}, "y z"))
    freed = [set(step.frees) for step in session._program.steps]
    assert freed == [{"x"}, set(), set(), {"b"}, {"c", "d"}, {"a"}]


# Graphs drawn at random.


def drawn_graph(seed):
    """Nodes over values of one shape, each reading one or two of those before."""
    rng = random.Random(seed)
    values, nodes = ["x"], []
    unary = [
        lambda v, y: conv_bn(v, y),
        lambda v, y: [node("Conv", f"{v} w b", y, pads=[1, 1, 1, 1])],
        lambda v, y: [node("Conv", f"{v} w2", y, pads=[1, 1, 1, 1], group=2)],
        lambda v, y: [node("ConvTranspose", f"{v} w b", y, pads=[1, 1, 1, 1])],
        lambda v, y: [node("BatchNormalization", f"{v} {BN}", y)],
        *(lambda v, y, op=op: [node(op, v, y)] for op in ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Identity", "Neg")),
        *(lambda v, y, op=op: [node(op, f"{v} k", y)] for op in ("Add", "Sub", "Mul")),
        lambda v, y: [node("Sub", f"k4 {v}", y)],
        lambda v, y: [node("Clip", f"{v} zero six", y)],
        lambda v, y: [node("Reshape", f"{v} whole", y)],
        lambda v, y: [node("Sigmoid", v, f"{y}_"), node("Mul", f"{v} {y}_", y)],
    ]
    for number in range(rng.randint(4, 14)):
        latest = values[-1] if rng.random() < 0.7 else rng.choice(values)
        if rng.random() < 0.3:
            nodes.append(node(rng.choice(["Add", "Mul", "Sum", "Sub"]), f"{latest} {rng.choice(values)}", f"v{number}"))
        else:
            nodes += rng.choice(unary)(latest, f"v{number}")
        values.append(f"v{number}")
    return nodes, values[-1]


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize("seed", range(60))
def test_optimized_graphs_compute_the_same(seed, data_format):
    nodes, last = drawn_graph(seed)
    constants = {**CONSTANTS, "whole": np.array(X.shape), "w": CONSTANTS["w"] / 6, "w2": CONSTANTS["w2"] / 4}
    made = [name for n in nodes for name in n.output]
    plain = Session(model(nodes, {"x": X}, " ".join(made), constants)).run({"x": X})
    session = Session(model(nodes, {"x": X}, last, constants), data_format=data_format)
    before = X.copy()
    for _ in range(2):  # the second time in memory that the first has left
        (y,) = session.run({"x": X})
        largest = max(float(np.abs(value).max()) for value in plain)
        assert_within(y, plain[made.index(last)].astype(np.float64), 256 * EPS * max(1.0, largest), np.float32)
    np.testing.assert_array_equal(X, before)
