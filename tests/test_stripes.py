"""Convolutions run stripe by stripe: the bits of one after the other, however they are cut, and who is run so."""

import copy
import pickle

import numpy as np
import pytest
from conftest import each, using_threads

import fastconv
from fastconv import layers, models
from fastconv.functional import stripes
from fastconv.functional.stripes import Cut, Stage, StripesByShape, plan_stripes
from fastconv.layers.stripes import Striped

ACTIVATIONS = (None, "relu", "relu6", "tanh", "gelu")


def drawn_stages(rng, dtype, channels):
    """Two to four stages that kernels make by rows: depthwise ones, 1x1 and, of few channels, larger ones."""
    stages = []
    for _ in range(rng.integers(2, 5)):
        kind = rng.choice(["depthwise", "pointwise", "dense"])
        size = (1, 1) if kind == "pointwise" else tuple(rng.integers(1, 4, 2))
        dilation = tuple(int(d) for d in rng.integers(1, 3, 2))
        room = [(k - 1) * d for k, d in zip(size, dilation, strict=True)]
        padding = tuple(tuple(int(p) for p in rng.integers(0, r + 2, 2)) for r in room)
        out = channels * int(rng.integers(1, 3)) if kind == "depthwise" else int(rng.integers(1, 40))
        groups = channels if kind == "depthwise" else 1
        weight = rng.standard_normal((out, channels // groups, *size)).astype(dtype)
        bias = rng.standard_normal(out).astype(dtype) if rng.random() < 0.7 else None
        stride = tuple(int(s) for s in rng.integers(1, 4, 2))
        stages.append(Stage(weight, bias, stride, padding, dilation, groups, rng.choice(ACTIVATIONS)))
        channels = out
    return stages


def one_by_one(x, stages, residual=None):
    for i, s in enumerate(stages):
        x = fastconv.conv2d(
            x, s.weight, s.bias, s.stride, s.padding, s.dilation, s.groups, activation=s.activation,
            data_format="channels_last", residual=residual if i == len(stages) - 1 else None,
        )  # fmt: skip
    return x


@each(seed=range(40))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_are_those_of_one_after_the_other(dtype, seed, isa):
    rng = np.random.default_rng(seed)
    channels, batch = int(rng.integers(2, 36)), int(rng.integers(1, 4))
    stages = drawn_stages(rng, dtype, channels)
    x = rng.standard_normal((batch, *rng.integers(24, 40, 2), channels)).astype(dtype)
    expected = one_by_one(x, stages)
    residual = rng.standard_normal(expected.shape).astype(dtype)
    rows = expected.shape[1]
    for bands, stripe in ((1, rows), (1, 1), (rows, 1), (min(3, rows), 2)):
        plan = plan_stripes(x.shape, stages, cut=Cut(bands, stripe, 1.0))
        if plan is None:
            assert any(s.weight.shape[0] < 16 and s.groups == 1 for s in stages)  # turned to planes
            return
        assert plan.y_shape == expected.shape
        for threads in (1, 2, 5):
            with using_threads(threads):
                np.testing.assert_array_equal(plan(x), expected)
    with_residual = one_by_one(x, stages, residual)
    np.testing.assert_array_equal(plan(x, residual=residual), with_residual)
    assert plan(x, residual=residual, out=residual) is residual
    np.testing.assert_array_equal(residual, with_residual)


def block(channels=24, wide=144, out=32, stride=1, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = (wide, channels, 1, 1), (wide, 1, 3, 3), (out, wide, 1, 1)
    first, middle, last = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return [Stage(first, activation="relu6"), Stage(middle, None, stride, 1, 1, wide, "relu6"), Stage(last)]


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize("threads", [1, 2, 5, 16])
def test_bands_and_stripes_as_they_are_cut_by_themselves(threads, batch):
    """Work is even by a third, stripes keep to half of L2, and the bits are those of one thread."""
    stages = block()
    x = np.random.default_rng(1).standard_normal((batch, 28, 28, 24), np.float32)
    with using_threads(threads):
        plan = plan_stripes(x.shape, stages)
        if plan is None:
            assert batch * 28 < 8 * threads
            return
        y = plan(x)
    own, shared = plan._kernel.workspace_bytes(threads)
    assert own < 512 * 1024
    assert shared == 0
    np.testing.assert_array_equal(y, one_by_one(x, stages))


def test_what_does_not_pay_is_not_planned():
    def planned(x_shape, stages, threads=1, **options):
        with using_threads(threads):
            return plan_stripes(x_shape, stages, **options) is not None

    assert planned((1, 28, 28, 24), block())
    assert planned((0, 28, 28, 24), block()) is False
    assert planned((1, 28, 28, 24), block(), threads=64) is False  # rows that neighbouring bands make twice
    assert planned((1, 4, 9000, 24), block()) is False  # three rows are more than L2 keeps
    dense = Stage(np.ones((64, 24, 3, 3), np.float32), padding=1)
    assert planned((1, 28, 28, 24), [dense, block(64)[0]], algorithm="direct")
    assert planned((1, 28, 28, 24), [dense, block(64)[0]], algorithm="winograd") is False  # its tiles have many rows


def test_a_shape_is_planned_once_for_the_threads_and_the_policy_in_force():
    asked = []
    plans, kept = StripesByShape(), block()

    def plan(x_shape=(1, 28, 28, 24)):
        return plans(x_shape, lambda: asked.append(x_shape) or kept)

    with using_threads(1):
        first = plan()
        assert plan() is first
        assert plan((1, 4, 9000, 24)) is None
        assert plan((1, 4, 9000, 24)) is None  # what does not pay is not planned again either
        with fastconv.algorithm("direct"):
            assert plan() is not first
    with using_threads(2):
        assert plan() is not first
    assert len(asked) == 4


def test_arguments_are_checked():
    stages = block()
    with pytest.raises(ValueError, match="stages must be 2 to 8, got 1"):
        plan_stripes((1, 28, 28, 24), stages[:1])
    with pytest.raises(TypeError, match="must have the dtype of stages"):
        plan_stripes((1, 28, 28, 24), [stages[0], *block(dtype=np.float64)[1:]])
    with pytest.raises(ValueError, match="channels"):
        plan_stripes((1, 28, 28, 23), stages)
    plan = plan_stripes((1, 28, 28, 24), stages)
    x = np.ones((1, 28, 28, 24), np.float32)
    with pytest.raises(ValueError, match=r"x must have shape \(1, 28, 28, 24\)"):
        plan(x[:, 1:])
    with pytest.raises(TypeError, match="float32, got float64"):
        plan(x.astype(np.float64))
    with pytest.raises(ValueError, match=r"out must have shape"):
        plan(x, out=np.ones((1, 28, 28, 24), np.float32))
    with pytest.raises(ValueError, match="residual must have shape"):
        plan(x, residual=x)


def test_not_a_number_and_infinity_land_where_they_do_one_by_one():
    stages = [Stage(s.weight, s.bias, s.stride, s.padding, s.dilation, s.groups, None) for s in block()]
    x = np.random.default_rng(2).standard_normal((2, 28, 28, 24), np.float32)
    x[0, 5, 6, 7], x[1, 20, 0, 3] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(plan_stripes(x.shape, stages)(x), one_by_one(x, stages))


# ---------------------------------------------------------------------------------------------------------- networks


def striped(network):
    return [layer for _, layer in network.named_layers() if isinstance(layer, Striped)]


def mobilenet(layout="channels_last"):
    return models.create("mobilenet-v2", num_classes=7, data_format=layout, rng=0).eval()


def test_blocks_of_mobilenet_run_by_stripes(monkeypatch):
    """All seventeen, the sums among them, with the bits of the layers one by one."""
    plans = []
    monkeypatch.setattr(stripes, "plan_stripes", lambda *given: plans.append(plan_stripes(*given)) or plans[-1])
    fused = layers.fuse(mobilenet())
    assert len(striped(fused)) == 17
    x = np.random.default_rng(0).standard_normal((2, 96, 96, 3), np.float32)
    y = fused(x)
    assert len(plans) == 17
    assert None not in plans
    alone = layers.fuse(mobilenet()).eval(pack=False)  # nothing is kept, so nothing is planned
    np.testing.assert_array_equal(alone(x), y)
    assert len(plans) == 17


def test_copies_and_pickles_run_by_stripes_of_their_own():
    fused = layers.fuse(mobilenet())
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 3), np.float32)
    y = fused(x)
    for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        np.testing.assert_array_equal(other(x), y)
        assert len(striped(other)) == 17


def test_what_is_no_array_is_told():
    with pytest.raises(TypeError, match="x must be a NumPy array, got list"):
        layers.fuse(mobilenet())([[1.0]])


def test_new_weights_are_planned_anew():
    fused, other = layers.fuse(mobilenet()), layers.fuse(models.create("mobilenet-v2", num_classes=7, rng=1,
                                                                       data_format="channels_last"))  # fmt: skip
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 3), np.float32)
    assert not np.array_equal(fused(x), other(x))
    fused.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(fused(x), other(x))


def test_threads_and_policies_that_change_are_planned_anew():
    fused = layers.fuse(mobilenet())
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 3), np.float32)
    with using_threads(1):
        y = fused(x)
    with using_threads(2):
        np.testing.assert_array_equal(fused(x), y)
    with fastconv.algorithm("direct"):
        np.testing.assert_allclose(fused(x), y, rtol=1e-3, atol=1e-3 * np.abs(y).max())


class Doubled(layers.Conv2d):
    """A user's convolution, whose forward is another."""

    def forward(self, x, residual=None):
        return 2 * super().forward(x, residual)


def pair(**options):
    last = {"data_format": "channels_last"} | options
    return layers.Conv2d(8, 16, 1, rng=0, **last), layers.Conv2d(16, 16, 3, padding=1, groups=16, rng=0, **last)


def test_only_what_stripes_can_do_is_joined():
    last = {"data_format": "channels_last", "rng": 0}
    kept = {
        "channels first": pair(data_format="channels_first"),
        "no depthwise one": (layers.Conv2d(8, 16, 1, **last), layers.Conv2d(16, 8, 3, **last)),
        "other padding": pair(padding_mode="reflect"),
        "an algorithm of its own": pair(algorithm="direct"),
        "another forward": (Doubled(8, 16, 1, **last), pair()[1]),
        "something between": (pair()[0], layers.Softmax(-1), pair()[1]),
        "one axis": (layers.Conv1d(8, 16, 1, **last), layers.Conv1d(16, 16, 3, groups=16, **last)),
    }
    for name, stages in kept.items():
        assert not striped(layers.fuse(layers.Sequential(*stages))), name
    one, deep = pair()
    again = layers.Conv2d(16, 16, 1, **last), layers.Conv2d(16, 16, 3, groups=16, **last)
    joined = layers.fuse(layers.Sequential(one, deep, *again, layers.Conv2d(16, 8, 1, **last)))
    assert [len(layer._layers) for layer in striped(joined)] == [3, 2]


def test_other_pictures_than_planned_for():
    """One without a batch axis, and one of another dtype, which raises as the first convolution does."""
    fused = layers.fuse(layers.Sequential(*pair()))
    x = np.random.default_rng(0).standard_normal((1, 9, 9, 8), np.float32)
    np.testing.assert_array_equal(fused(x[0]), fused(x)[0])
    with pytest.raises(TypeError, match="dtype"):
        fused(x.astype(np.float64))


def test_stripes_are_as_long_as_a_cache_keeps():
    windows = [stripes.Window(112, 112, 1, 0, 1), stripes.Window(112, 56, 2, 1, 3), stripes.Window(56, 56, 1, 0, 1)]
    assert stripes._kept(windows, (1, 10, 100, 1000), 2) == 5 * 10 + 2 * 100
    assert windows[1].read_by(0, 1) == (0, 2)
    assert windows[1].read_by(55, 56) == (109, 112)
