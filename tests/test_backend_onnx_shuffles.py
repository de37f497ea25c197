"""Channels shuffled across groups: one step, and the same values, where Reshape, Transpose and Reshape do just that."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'fastconv[onnx]'")

from conftest import each
from onnx_models import declared, model, node, normal, operators

from fastconv.backends.onnx import Session

pytestmark = pytest.mark.isa_independent

ORDER = [0, 2, 1, 3, 4]
JOINED = ["Relu", "Reshape+Transpose+Reshape"]
APART = ["Relu", "Reshape", "Transpose", "Reshape"]
CASES = {  # sizes of x, of both reshapes, the order between them, and what runs
    "shuffle": ((2, 12, 5, 4), (2, 3, 4, 5, 4), ORDER, (2, 12, 5, 4), JOINED),
    "any batch": ((3, 12, 5, 4), (-1, 3, 4, 5, 4), ORDER, (0, -1, 5, 4), JOINED),
    "any channels": ((2, 12, 5, 4), (0, 4, -1, 5, 4), ORDER, (2, 12, 5, -1), JOINED),
    "a line": ((2, 6, 7), (2, 2, 3, 7), ORDER[:4], (2, 6, 7), JOINED),
    "space to channels": ((2, 12, 4, 4), (2, 3, 16, 2, 2), ORDER, (2, 48, 2, 2), JOINED),
    "heads": ((2, 6, 8, 5), (2, 6, 8, 5), [0, 2, 1, 3], (16, 6, 5), APART),
    "channels and lines": ((2, 12, 5, 4), (2, 12, 5, 2, 2), ORDER, (2, 12, 5, 4), APART),
    "other axes": ((2, 12, 5, 4), (2, 3, 4, 5, 4), [0, 2, 1, 4, 3], (2, 12, 5, 4), APART),
    "one group": ((2, 12, 5, 4), (2, 1, 12, 5, 4), ORDER, (2, 12, 5, 4), JOINED),
    "no split": ((2, 3, 5, 4), (2, 15, 4), [0, 2, 1], (2, 3, 5, 4), APART),
}


def made(name, data_format, **changes):
    size, split, order, joined, _ = CASES[name]
    nodes = [
        node("Relu", "x", "a"), node("Reshape", "a split", "b"), node("Transpose", "b", "c", perm=order),
        node("Reshape", "c joined", "y"),
    ]  # fmt: skip
    constants = {"split": np.array(split), "joined": np.array(joined)}
    x = normal(*size)
    inputs = [declared("x", x, [None] * x.ndim)]
    proto = model(nodes, inputs, changes.get("outputs", "y"), constants)
    expected = np.maximum(x, 0).reshape([n or size[i] for i, n in enumerate(split)]).transpose(order)
    expected = expected.reshape([n or expected.shape[i] for i, n in enumerate(joined)])
    return Session(proto, data_format=data_format), x, expected


@each(data_format=["channels_first", "channels_last"])
@pytest.mark.parametrize("name", CASES)
def test_values(name, data_format):
    session, x, expected = made(name, data_format)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    for given in (x, np.moveaxis(last, -1, 1)):
        np.testing.assert_array_equal(session.run({"x": given})[0], expected)


@pytest.mark.parametrize("name", CASES)
def test_what_is_joined(name):
    session, x, _ = made(name, "channels_last")
    assert operators(session, {"x": x}) == CASES[name][-1]
    session, x, _ = made(name, "channels_first")
    assert operators(session, {"x": x}) == APART


@pytest.mark.parametrize("outputs", ["y b", "y c"])
def test_what_somebody_else_reads_stays(outputs):
    session, x, expected = made("shuffle", "channels_last", outputs=outputs)
    assert operators(session, {"x": x}) == APART
    np.testing.assert_array_equal(session.run({"x": x})[0], expected)


def test_two_in_a_row():
    """The Reshape between them ends the first and begins the second."""
    nodes = [
        node("Reshape", "x split", "a"), node("Transpose", "a", "b", perm=ORDER), node("Reshape", "b split4", "c"),
        node("Transpose", "c", "d", perm=ORDER[:4]), node("Reshape", "d joined", "y"),
    ]  # fmt: skip
    x = normal(2, 12, 5)
    constants = {"split": np.array([2, 2, 3, 2, 5]), "split4": np.array([2, 6, 2, 5]), "joined": np.array([2, 12, 5])}
    expected = x.reshape(2, 2, 3, 2, 5).transpose(ORDER).reshape(2, 6, 2, 5).transpose(0, 2, 1, 3).reshape(2, 12, 5)
    np.testing.assert_array_equal(Session(model(nodes, {"x": x}, "y", constants)).run({"x": x})[0], expected)


def test_a_view_is_not_handed_out():
    """One group leaves x as it lies, and the caller's x must stay so."""
    nodes = [
        node("Reshape", "x split", "a"), node("Transpose", "a", "b", perm=ORDER), node("Reshape", "b joined", "y"),
        node("Clip", "y low", "z"), node("Add", "x z", "w"),
    ]  # fmt: skip
    x = normal(2, 12, 5, 4)
    constants = {"split": np.array([2, 1, 12, 5, 4]), "joined": np.array(x.shape), "low": np.float32(0)[()]}
    given = x.copy()
    y, w = Session(model(nodes, {"x": x}, "y w", constants)).run({"x": given})
    y[:] = 0
    np.testing.assert_array_equal(given, x)
    np.testing.assert_array_equal(w, x + np.maximum(x, 0))
