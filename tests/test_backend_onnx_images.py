"""First steps that run image by image: the same results, only where images are apart, and where it pays."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'fastconv[onnx]'")

from onnx_models import declared, model, node, normal, operators
from tolerance import assert_within

from fastconv.backends.onnx import Session
from fastconv.backends.onnx.images import Cost, ImageWise

pytestmark = pytest.mark.isa_independent

EPS = float(np.finfo(np.float32).eps)
X = normal(3, 4, 10, 9)
CONSTANTS = {
    "w": normal(4, 4, 3, 3, seed=1) / 6,
    "d": normal(4, 1, 3, 3, seed=2) / 3,
    "u": normal(4, 4, 2, 2, seed=3) / 4,
    "b": normal(4, seed=4),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "one": normal(1, 4, 1, 1, seed=5),
    "three": normal(3, 1, 1, 1, seed=6),
    "large": normal(2, 4, 12, 12, seed=8),
    "flat": np.array([3, -1]),
}
CONV = node("Conv", "x w b", "c", pads=[1, 1, 1, 1])
DEPTHWISE = node("Conv", "c d", "e", group=4, pads=[1, 1, 1, 1])
BODY = [CONV, node("Relu", "c", "r"), node("Conv", "r d b", "e", group=4, pads=[1, 1, 1, 1])]
NETWORKS = {
    "block": ([*BODY, node("Add", "e x", "y")], "y", 2),
    "pools": ([CONV, node("MaxPool", "c", "m", kernel_shape=[2, 2], strides=[2, 2]), DEPTHWISE,
               node("GlobalAveragePool", "e", "y")], "y m", 4),
    "padded": ([node("Pad", "x pads", "p"), node("Conv", "p w b", "y", strides=[2, 2])], "y", 1),
    "transposed": ([node("ConvTranspose", "x u", "t", strides=[2, 2]), node("LRN", "t", "y", size=3)], "y", 2),
    "constant": ([CONV, node("Add", "c one", "y")], "y", 1),
    "read later": ([*BODY, node("Reshape", "e flat", "f"), node("Reshape", "r flat", "g"), node("Sub", "f g", "y")],
                   "y c", 3),
}  # fmt: skip


@pytest.fixture
def always(monkeypatch):
    """As many steps as can be run so, whatever it costs."""
    monkeypatch.setattr(ImageWise, "_count", lambda self, images, size: len(self._costs))


def steps_of(session):
    return len(session._program._image_wise._costs)


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize("batch", [3, "n"])
@pytest.mark.parametrize("name", NETWORKS)
def test_results_are_the_same(name, batch, data_format, monkeypatch, always):
    nodes, outputs, steps = NETWORKS[name]
    inputs = [declared("x", X, (batch, *X.shape[1:]))]
    session = Session(model(nodes, inputs, outputs, CONSTANTS), data_format=data_format)
    joined = name == "block" and data_format == "channels_last"  # its convolutions are one step of stripes
    assert steps_of(session) == steps - joined
    apart = [session.run({"x": X}) for _ in range(2)]  # the second time in memory that the first has left
    monkeypatch.setattr(ImageWise, "_count", lambda self, images, size: 0)
    whole = session.run({"x": X})
    for results in apart:
        for y, expected in zip(results, whole, strict=True):
            assert y.flags.c_contiguous
            # Other numbers of images may be planned otherwise; sums of 36 products, and of those.
            assert_within(y, expected.astype(np.float64), 64 * EPS * max(1, np.abs(expected).max()), np.float32)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_images(count, always):
    nodes, outputs, _ = NETWORKS["block"]
    session = Session(model(nodes, [declared("x", X, ("n", *X.shape[1:]))], outputs, CONSTANTS))
    x = normal(count, *X.shape[1:], seed=7)
    (y,) = session.run({"x": x})
    for image in range(count):
        (one,) = session.run({"x": x[image : image + 1]})
        np.testing.assert_array_equal(y[image : image + 1], one)
    assert session.run({"x": x[:0]})[0].shape == (0, *X.shape[1:])


@pytest.mark.parametrize(
    ("nodes", "steps"),
    [
        ([CONV, node("Softmax", "c", "y", axis=0)], 1),
        ([CONV, node("Add", "c three", "y")], 1),
        ([CONV, node("MaxPool", "c", "y i", kernel_shape=[2, 2])], 1),
        ([CONV, node("ReduceMean", "c", "y", keepdims=0)], 1),
        ([node("Transpose", "x", "y", perm=[1, 0, 2, 3])], 0),
        ([node("Conv", "large x", "y")], 0),
        ([node("Relu", "x", "r"), node("Conv", "r x", "y")], 1),
    ],
)
def test_what_sees_several_images_ends_it(nodes, steps):
    assert steps_of(Session(model(nodes, {"x": X}, "y", CONSTANTS))) == steps


def test_two_inputs_or_none_of_images():
    both = [node("Add", "x z", "s"), node("Relu", "s", "y")]
    assert steps_of(Session(model(both, {"x": X, "z": X}, "y"))) == 0
    assert steps_of(Session(model([node("Relu", "x", "y")], {"x": X[0, 0]}, "y"))) == 0
    unknown = [declared("x", X, (3, 4, "h", "w"))]
    assert steps_of(Session(model([CONV, DEPTHWISE], unknown, "e", CONSTANTS))) == 0


def test_it_is_done_where_it_pays():
    """Much to move and little to compute, of more images than a cache holds."""
    wide = Cost(operations=38e6, elements=1_400_000)
    dense = Cost(operations=400e6, elements=1_400_000)
    assert wide.apart(8, 4) < 0.7 * wide.whole(8, 4)
    assert dense.apart(8, 4) > dense.whole(8, 4)
    assert wide.apart(2, 4) > wide.whole(2, 4)


def counted(*costs):
    """How many of such steps are taken for eight images of float32."""
    some = ImageWise.__new__(ImageWise)
    some._costs, some._counts = list(costs), {}
    return some._count(8, 4)


def test_how_many_steps():
    wide, small, dense = Cost(38e6, 1_400_000), Cost(20e6, 100_000), Cost(400e6, 1_400_000)
    assert counted(wide, wide, small, small) == 2
    assert counted(small, wide, small) == 2
    assert counted(wide, dense, dense, wide) == 1
    assert counted(dense, dense, wide) == 0
    assert counted(small) == counted() == 0


def test_a_profile_has_each_step_once(always):
    nodes, outputs, _ = NETWORKS["read later"]
    session = Session(model(nodes, {"x": X}, outputs, CONSTANTS))
    assert operators(session, {"x": X}) == ["Conv", "Relu", "Conv", "Reshape", "Reshape", "Sub"]
    profile = session.profile({"x": X}, runs=2)
    assert [timing.shape[0] for timing in profile.timings] == [1, 1, 1, 3, 3, 3]
    assert all(0 < timing.seconds < profile.seconds for timing in profile.timings)
    np.testing.assert_array_equal(profile.outputs[0], session.run({"x": X})[0])
