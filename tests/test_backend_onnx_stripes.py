"""Depthwise convolutions joined with their neighbours: the same results, and only where that can be."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'fastconv[onnx]'")

from conftest import each, using_threads
from onnx_models import declared, model, node, normal, operators
from tolerance import assert_within

from fastconv.backends.onnx import Session

pytestmark = pytest.mark.isa_independent

EPS = float(np.finfo(np.float32).eps)
X = normal(2, 8, 15, 12)
CONSTANTS = {
    "expand": normal(24, 8, 1, 1, seed=1) / 3,
    "deep": normal(24, 1, 3, 3, seed=2) / 3,
    "twice": normal(48, 1, 3, 3, seed=3) / 3,
    "project": normal(8, 24, 1, 1, seed=4) / 5,
    "narrow": normal(20, 48, 1, 1, seed=5) / 7,
    "dense": normal(24, 24, 3, 3, seed=6) / 15,
    "bias": normal(24, seed=7),
    "out": normal(8, seed=8),
    "low": np.float32(0)[()],
    "high": np.float32(6)[()],
}


def expand(x="x", y="a"):
    return node("Conv", f"{x} expand bias", y)


def deep(x="b", y="c", **attributes):
    return node("Conv", f"{x} deep bias", y, group=24, **{"pads": [1, 1, 1, 1]} | attributes)


def block(**attributes):
    """As in MobileNetV2, the depthwise convolution with these attributes."""
    ends = node("Clip", "c low high", "d"), node("Conv", "d project out", "e")
    return [expand(), node("Clip", "a low high", "b"), deep(**attributes), *ends]


BLOCK = block()
JOINED = "Conv+Clip+Conv+Clip+Conv"
NETWORKS = {
    "block": (BLOCK, "e", [JOINED]),
    "sum": ([*BLOCK, node("Add", "e x", "y")], "y", [JOINED + "+Add"]),
    "sum with a vector": ([*BLOCK, node("Mul", "out3 e", "y")], "y", [JOINED + "+Mul"]),
    "strides": (block(strides=[2, 1]), "e", [JOINED]),
    "dilations": (block(dilations=[1, 2]), "e", [JOINED]),
    "upper": (block(strides=[2, 2], auto_pad="SAME_UPPER", pads=None), "e", [JOINED]),
    "lower": (block(strides=[2, 2], auto_pad="SAME_LOWER", pads=None), "e", [JOINED]),
    "two to a channel": ([*BLOCK[:2], node("Conv", "b twice", "c", group=24, pads=[1, 0, 2, 1]),
                          node("Conv", "c narrow", "y")], "y", ["Conv+Clip+Conv+Conv"]),
    "depthwise first": ([deep("x2"), node("Conv", "c project", "y")], "y", ["Conv+Conv"]),
    "separable twice": ([*BLOCK, expand("e", "f"), deep("f", "y")], "y", [JOINED, "Conv+Conv"]),
    "read twice": ([*BLOCK, node("GlobalAveragePool", "b", "y")], "e y",
                   ["Conv+Clip", "GlobalAveragePool", "Conv+Clip+Conv"]),
    "an output": (BLOCK, "e b", ["Conv+Clip", "Conv+Clip+Conv"]),
    "a dense one": ([expand(), node("Conv", "a dense", "y", pads=[1, 1, 1, 1])], "y", ["Conv", "Conv"]),
    "something between": ([expand(), node("Erf", "a", "b"), deep()], "c", ["Conv", "Erf", "Conv"]),
}  # fmt: skip


def session_of(name, data_format, x=X):
    nodes, outputs, _ = NETWORKS[name]
    inputs = {"x": x} | ({"x2": normal(2, 24, 15, 12, seed=9)} if name == "depthwise first" else {})
    if name == "depthwise first":
        del inputs["x"]
    constants = CONSTANTS | {"out3": CONSTANTS["out"].reshape(-1, 1, 1)}
    return Session(model(nodes, inputs, outputs, constants), data_format=data_format), inputs


@each(threads=[1, 2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_results_are_the_same(name, threads):
    first, inputs = session_of(name, "channels_first")
    last, _ = session_of(name, "channels_last")
    with using_threads(threads):
        for y, expected in zip(last.run(inputs), first.run(inputs), strict=True):
            assert y.flags.c_contiguous
            assert_within(y, expected.astype(np.float64), 64 * EPS * max(1, np.abs(expected).max()), np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_joined(name):
    session, inputs = session_of(name, "channels_last")
    assert sorted(operators(session, inputs)) == sorted(NETWORKS[name][2])
    plans = {timing.operator: timing.plan for timing in session.profile(inputs).timings}
    assert all(("stripes" in plan) == (operator.count("Conv") > 1) for operator, plan in plans.items())
    alone, _ = session_of(name, "channels_first")
    assert all(operator.count("Conv") < 2 for operator in operators(alone, inputs))


def test_a_residual_that_is_broadcast():
    """Of one image for all: the convolutions run one by one, and the sum by NumPy."""
    nodes, inputs = [*BLOCK, node("Add", "e z", "y")], {"x": X, "z": normal(1, 8, 15, 12, seed=11)}
    first, last = (Session(model(nodes, inputs, "y", CONSTANTS), data_format=f"channels_{side}")
                   for side in ("first", "last"))  # fmt: skip
    (expected,), (y,) = first.run(inputs), last.run(inputs)
    assert_within(y, expected.astype(np.float64), 64 * EPS * np.abs(expected).max(), np.float32)


def test_shapes_that_change_and_what_does_not_pay():
    """Lines that no cache keeps three of run one by one, and say so in a profile."""
    session = Session(model(BLOCK, [declared("x", X, ("n", 8, "h", "w"))], "e", CONSTANTS), data_format="channels_last")
    for shape in ((2, 8, 15, 12), (1, 8, 9, 7), (1, 8, 3, 9000), (0, 8, 15, 12)):
        x = normal(*shape)
        (y,) = session.run({"x": x})
        assert y.shape == shape
    (timing,) = session.profile({"x": normal(1, 8, 3, 9000)}).timings
    assert timing.plan.count(",") >= 2
    assert "direct (pixels)" in timing.plan


def test_halves_are_computed_in_float32():
    constants = {name: value.astype(np.float16) for name, value in CONSTANTS.items()}
    x = X.astype(np.float16)
    first, last = (Session(model(BLOCK, {"x": x}, "e", constants), data_format=f"channels_{side}")
                   for side in ("first", "last"))  # fmt: skip
    (expected,), (y,) = first.run({"x": x}), last.run({"x": x})
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.astype(np.float32), expected.astype(np.float32), atol=2e-2)
