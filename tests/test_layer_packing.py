"""Weights packed by eval(): the same bits, packed as seldom as may be, and never stale."""

import copy
import pickle

import numpy as np
import pytest
from layer_pairs import PAIRS, make_pair

from fastconv import algorithm, layers, runtime
from fastconv.functional import planned

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

CONVOLUTIONS = [name for name in PAIRS if name.startswith(("conv", "transposed"))]


@pytest.fixture
def plans_made(monkeypatch):
    """The shapes of x for which a convolution was planned, and so packed, in order."""
    shapes = []

    def watch(plan):
        def watched(x_shape, *arguments, **options):
            shapes.append(x_shape)
            return plan(x_shape, *arguments, **options)

        return watched

    for name in planned.__all__:
        if name.startswith("plan_"):
            monkeypatch.setattr(planned, name, watch(getattr(planned, name)))
    return shapes


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_packing_changes_no_bit(plans_made, name, data_format):
    layer, _, draw = make_pair(name, data_format=data_format, activation="elu")
    x = draw(np.random.default_rng(0))
    x = x if data_format == "channels_first" else np.moveaxis(x, -x.ndim + (x.ndim > layer.ndim + 1), -1)
    inputs = [x, -x] if x.ndim == layer.ndim + 1 else [x, x[:1], np.concatenate([x, -x]), -x, x[1:], x[0]]
    in_training = [layer(x) for x in inputs]
    for pack in (False, True):
        layer.eval(pack=pack)
        for x, expected in zip(inputs, in_training, strict=True):
            np.testing.assert_array_equal(layer(x), expected)
    assert plans_made == list(dict.fromkeys(x.shape for x in inputs))


def test_packs_of_the_last_four_shapes_are_kept(plans_made):
    layer = layers.Conv1d(2, 3, 2).eval()
    for length in (4, 5, 6, 7, 4, 5, 6, 7, 8, 4, 8):
        layer(np.zeros((1, 2, length), np.float32))
    assert [shape[2] for shape in plans_made] == [4, 5, 6, 7, 8, 4]


def test_training_and_a_loaded_state_drop_the_packs(plans_made):
    model = layers.Sequential(layers.Conv2d(2, 3, 2), layers.ReLU(), layers.ConvTranspose2d(3, 2, 2))
    state = {key: array + 1 for key, array in model.state_dict().items()}
    x = np.random.default_rng(0).standard_normal((2, 2, 5, 4)).astype(np.float32)
    before = model.eval()(x)
    assert len(plans_made) == 2
    model.load_state_dict(state)
    after = model(x)
    assert len(plans_made) == 4
    assert (after != before).any()
    with pytest.raises(ValueError, match="read-only"):
        model[0].weight += 1
    np.testing.assert_array_equal(after, model.eval(pack=False)(x))
    model.load_state_dict(state)
    np.testing.assert_array_equal(model(x), after)
    np.testing.assert_array_equal(model.train()(x), after)
    assert len(plans_made) == 4  # neither in training nor without packing
    model[0].weight -= 1
    np.testing.assert_array_equal(model(x), model.train(False)(x))
    assert len(plans_made) == 6


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("pack", [True, False])
def test_a_copy_of_an_evaluated_layer_packs_for_itself(plans_made, clone, pack):
    layer, x = layers.Conv1d(2, 3, 2).eval(pack=pack), np.ones((1, 2, 5), np.float32)
    y = layer(x)
    twin = clone(layer)
    np.testing.assert_array_equal(twin(x), y)
    np.testing.assert_array_equal(layer(x), y)
    assert len(plans_made) == (2 if pack else 0)
    assert not twin.weight.flags.writeable


def test_a_packed_layer_follows_isa_policy_and_attributes(isa):
    layer, x = layers.ConvTranspose2d(3, 4, 3, stride=2).eval(), np.ones((2, 3, 5, 4), np.float32)
    for change in (
        lambda: None,
        lambda: setattr(layer, "activation", "tanh"),
        lambda: setattr(layer, "algorithm", "direct"),
        lambda: setattr(layer, "stride", (1, 2)),
        lambda: runtime.set_isa(runtime.available_isas()[-1]),
    ):
        layer(x)
        change()
        y = layer(x)
        expected = layer.eval(pack=False)(x)
        layer.eval()
        np.testing.assert_array_equal(y, expected)
    assert layer(x, output_size=(7, 10)).shape == (2, 4, 7, 10)
    with algorithm("direct"):
        np.testing.assert_array_equal(layer(x), y)


@pytest.mark.parametrize("pack", [True, False])
def test_an_evaluated_convolution_refuses_what_it_refuses_in_training(pack):
    layer = layers.Conv2d(2, 3, 3).eval(pack=pack)
    for x, kind, message in (
        (np.zeros((1, 2, 5, 5)), TypeError, "dtype"),
        ([[[0.0]]], TypeError, "x must be a NumPy array, got list"),
        (np.zeros((1, 2, 5), int), TypeError, "x must be float32 or float64"),
        (np.zeros((5, 5), np.float32), ValueError, "x must have 3 or 4 dimensions"),
        (np.zeros((1, 3, 5, 5), np.float32), ValueError, "groups"),
        (np.zeros((1, 2, 2, 5), np.float32), ValueError, "weight.shape"),
    ):
        with pytest.raises(kind, match=message):
            layer(x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(31,), (1, 31), (7, 31), (2, 3, 31), (0, 31), (2, 0, 31)])
def test_an_evaluated_linear_layer_is_a_packed_convolution(plans_made, shape, dtype):
    layer = layers.Linear(31, 18, activation="relu", dtype=dtype, rng=0)
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    expected = layer(x)
    for pack in (True, False):
        y = layer.eval(pack=pack)(x)
        assert y.dtype == dtype
        np.testing.assert_allclose(y, expected, rtol=0, atol=100 * np.finfo(dtype).eps)
    assert len(plans_made) == (x.size > 0)


def test_a_packed_linear_layer_follows_its_weight_and_refuses_what_linear_refuses(plans_made):
    layer, x = layers.Linear(3, 2), np.ones((4, 3), np.float32)
    before = layer.eval()(x)
    layer.load_state_dict({key: array + 1 for key, array in layer.state_dict().items()})
    np.testing.assert_allclose(layer(x), before + 4, rtol=1e-6)
    np.testing.assert_allclose(copy.deepcopy(layer)(x[0]), layer.train()(x[0]), rtol=1e-6)
    layer.eval()
    for bad, kind in ((x.astype(float), TypeError), (x[:, :2], ValueError), ([[1.0, 2.0, 3.0]], TypeError)):
        with pytest.raises(kind):
            layer(bad)
