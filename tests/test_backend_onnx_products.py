"""Products that passes move: where they may, nowhere else, and the results stay the same."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'fastconv[onnx]'")

from onnx_models import declared, model, node, normal, operators
from tolerance import assert_within

from fastconv.backends.onnx import Session

pytestmark = pytest.mark.isa_independent

EPS = float(np.finfo(np.float32).eps)
FEEDS = {"a": normal(2, 3, 8, 6), "b": normal(2, 5, 4, 3, seed=1), "c": normal(2, 6, 2, 2, seed=2)}
ROWS = {"rows": normal(2, 12, 5, seed=3)}
CONSTANTS = {
    "w": normal(4, 14, 1, 1, seed=4),
    "w3": normal(4, 14, 3, 3, seed=5),
    "w8": normal(8, 8, 1, 1, seed=6),
    "wide": normal(20, 14, 1, 1, seed=7),
    "bias": normal(4, seed=8),
    "b_to": np.array([2, 5, 8, 6]),
    "c_to": np.array([2, 6, 8, 6]),
    "c_more": np.array([2, 8, 8, 6]),
    "same": np.array([2, 3, 8, 6]),
    "twice": np.array([1, 1, 2, 2], np.float32),
    "half": np.array([2, 3, 4, 3]),
    "m": normal(5, 8, seed=9),
    "m_bias": normal(8, seed=10),
    "m_tall": normal(5, 2, seed=11),
    "u": normal(4, 8, 1, 1, seed=12),
    "u_tall": normal(9, 2, 1, 1, seed=13),
    "to": np.array([2, -1, 4, 3]),
}


def resize(x, sizes, y, **attributes):
    made = node("Resize", x, y, **{"mode": "linear", **attributes})
    made.input.extend(["", "", sizes])
    return made


B, C = resize("b", "b_to", "b8"), resize("c", "c_to", "c8", mode="cubic")
CONCAT = node("Concat", "a b8 c8", "d", axis=1)
ENLARGED = [B, C, CONCAT]
TURNED = [
    node("MatMul", "rows m", "p"),
    node("Add", "p m_bias", "q"),
    node("Transpose", "q", "t", perm=[0, 2, 1]),
    node("Reshape", "t to", "x"),
]


def check(nodes, expected, outputs="y", feeds=None):
    """The session runs these operators, and computes what one does that keeps every value."""
    feeds = feeds or (ROWS if "rows" in nodes[0].input else FEEDS)
    session = Session(model(nodes, feeds, outputs, CONSTANTS))
    assert operators(session, feeds) == expected.split()
    made = [name for n in nodes for name in n.output]
    plain = dict(zip(made, Session(model(nodes, feeds, " ".join(made), CONSTANTS)).run(feeds), strict=True))
    for name, y in zip(outputs.split(), session.run(feeds), strict=True):
        # Sums of 14 products of sums of 16, in another order, and weights that are rounded once more.
        assert_within(y, plain[name].astype(np.float64), 256 * EPS * max(1, np.abs(plain[name]).max()), np.float32)


@pytest.mark.parametrize("bias", ["", "bias"])
@pytest.mark.parametrize("activation", [[], [node("Relu", "s", "y")]])
def test_a_convolution_goes_before_enlargements(bias, activation):
    conv = node("Conv", f"d w {bias}", "s" if activation else "y")
    end = "+Relu" if activation else ""
    check([*ENLARGED, conv, *activation], f"Conv Resize Conv Resize+Add Conv+Add{end}")


def test_what_is_not_enlarged_is_joined_by_itself():
    """In whatever order it comes, smaller and of the same size."""
    shrunk = resize("large", "same", "small")
    nodes = [B, shrunk, node("Concat", "b8 a small a", "d", axis=-3), node("Conv", "d w", "y")]
    feeds = {**FEEDS, "large": normal(2, 3, 10, 12, seed=20)}
    check(nodes, "Resize Conv Resize Concat Conv+Add", feeds=feeds)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric"])
def test_any_interpolation(mode, coordinates):
    b = resize("b", "b_to", "b8", mode=mode, coordinate_transformation_mode=coordinates)
    check([b, C, CONCAT, node("Conv", "d w bias", "y")], "Conv Resize Conv Resize+Add Conv+Add")


@pytest.mark.parametrize(
    ("nodes", "outputs", "expected"),
    [
        ([*ENLARGED, node("Conv", "d w", "y")], "y d", "Resize Resize Concat Conv"),
        ([*ENLARGED, node("Conv", "d w3", "y")], "y", "Resize Resize Concat Conv"),
        ([*ENLARGED, node("Conv", "d w", "y", strides=[2, 2])], "y", "Resize Resize Concat Conv"),
        ([*ENLARGED, node("Conv", "d w", "y", pads=[0, 1, 0, 0])], "y", "Resize Resize Concat Conv"),
        ([*ENLARGED, node("Conv", "d wide", "y")], "y", "Resize Resize Concat Conv"),
        ([*ENLARGED, node("Conv", "d w", "e"), node("Add", "e r", "y")], "y", "Resize Resize Concat Conv+Add"),
        ([B, node("Concat", "b8 a", "d", axis=1), node("Conv", "d w8", "e"), node("Concat", "b8 e", "y", axis=1)], "y",
         "Resize Concat Conv Concat"),
        ([resize("c", "c_more", "c8"), node("Concat", "a c8 a", "d", axis=1), node("Conv", "d w", "y")], "y",
         "Resize Concat Conv"),
    ],
)  # fmt: skip
def test_where_it_stays(nodes, outputs, expected):
    """Where somebody else reads what is between, there are more taps or sums to store, or channels are interpolated."""
    feeds = {**FEEDS, "r": normal(2, 4, 8, 6, seed=21)}
    feeds = {name: x for name, x in feeds.items() if any(name in n.input for n in nodes)}
    check(nodes, expected, outputs, feeds)


def test_a_shape_that_is_not_known_changes_nothing():
    inputs = [declared(name, x, ("n", *x.shape[1:])) for name, x in FEEDS.items()]
    session = Session(model([*ENLARGED, node("Conv", "d w", "y")], inputs, "y", CONSTANTS))
    assert operators(session, FEEDS) == ["Resize", "Resize", "Concat", "Conv"]


@pytest.mark.parametrize("bias", ["", "bias"])
def test_products_become_one(bias):
    check([*TURNED, node("Conv", f"x u {bias}", "y")], "Transpose Reshape MatMul+Add+Conv")
    without = [TURNED[0], node("Transpose", "p", "t", perm=[0, 2, 1]), TURNED[3]]
    conv, relu = node("Conv", f"x u {bias}", "e"), node("Relu", "e", "y")
    check([*without, conv, relu], "Transpose Reshape MatMul+Conv+Relu")


def test_products_become_one_in_float64():
    wide = {name: x.astype(np.float64) if x.dtype == np.float32 else x for name, x in CONSTANTS.items()}
    feeds = {"rows": ROWS["rows"].astype(np.float64)}
    session = Session(model([*TURNED, node("Conv", "x u bias", "y")], feeds, "y", wide))
    assert operators(session, feeds) == ["Transpose", "Reshape", "MatMul+Add+Conv"]
    x = np.moveaxis(feeds["rows"] @ wide["m"] + wide["m_bias"], 2, 1).reshape(2, 8, 4, 3)
    expected = np.einsum("oi,nihw->nohw", wide["u"][..., 0, 0], x) + wide["bias"][:, None, None]
    np.testing.assert_allclose(session.run(feeds)[0], expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("nodes", "outputs", "expected"),
    [
        ([*TURNED, node("Conv", "x u", "y")], "y x", "MatMul+Add Transpose Reshape Conv"),
        ([*TURNED, node("Conv", "x u", "y")], "y q", "MatMul+Add Transpose Reshape Conv"),
        (
            [*TURNED[:2], node("Relu", "q", "r"), node("Transpose", "r", "t", perm=[0, 2, 1]), TURNED[3],
             node("Conv", "x u", "y")],
            "y",
            "MatMul+Add+Relu Transpose Reshape Conv",
        ),
        (
            [node("MatMul", "rows m_tall", "q"), *TURNED[2:], node("Conv", "x u_tall", "y")], "y",
            "MatMul Transpose Reshape Conv",
        ),
    ],
)  # fmt: skip
def test_products_that_stay_two(nodes, outputs, expected):
    """Where somebody else reads what is between, it is activated, or both take fewer multiplications than one."""
    check(nodes, expected, outputs)


# What is known of shapes ahead.


def test_shapes_that_are_known_are_constants():
    shape = [
        node("Shape", "a", "s"), node("Gather", "s two", "h"), node("Concat", "n h minus", "to_", axis=0),
        node("Reshape", "a to_", "y"), node("Shape", "y", "z", start=1),
    ]  # fmt: skip
    constants = {"two": np.array([2]), "n": np.array([2]), "minus": np.array([-1])}
    session = Session(model(shape, {"a": FEEDS["a"]}, "y z", constants))
    assert operators(session, {"a": FEEDS["a"]}) == ["Reshape"]
    y, z = session.run({"a": FEEDS["a"]})
    np.testing.assert_array_equal(y, FEEDS["a"].reshape(2, 8, 18))
    np.testing.assert_array_equal(z, [8, 18])
    free = Session(model(shape, [declared("a", FEEDS["a"], ("n", 3, 8, 6))], "y z", constants))
    assert len(operators(free, {"a": FEEDS["a"]})) == len(shape)


def test_a_size_that_versions_count_differently_is_looked_up():
    """The window that begins in the padding: 5 -> 2 outputs, not 3."""
    nodes = [
        node("MaxPool", "a", "p", kernel_shape=[1], strides=[3], pads=[0, 1], ceil_mode=1),
        node("Shape", "p", "y"),
    ]
    x = normal(1, 1, 5)
    session = Session(model(nodes, {"a": x}, "y"))
    assert operators(session, {"a": x}) == ["MaxPool", "Shape"]
    np.testing.assert_array_equal(session.run({"a": x})[0], [1, 1, 2])


def test_what_the_model_claims_of_values_in_between_is_not_believed():
    proto = model([node("Relu", "a", "r"), node("Shape", "r", "y")], {"a": FEEDS["a"]}, "y")
    proto.graph.value_info.append(declared("r", FEEDS["b"]))
    np.testing.assert_array_equal(Session(proto).run({"a": FEEDS["a"]})[0], FEEDS["a"].shape)


def test_resizing_to_the_same_size_is_nothing():
    check([resize("a", "same", "e"), node("Relu", "e", "y")], "Relu", feeds={"a": FEEDS["a"]})
    scaled = node("Resize", "a  ", "y", mode="linear")
    scaled.input.extend(["", "twice"])
    check([scaled], "Resize", feeds={"a": FEEDS["a"]})
