"""What layers keep between calls: what backward needs, gradients, modes, parameters and their state."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from layer_pairs import F64, PAIRS, assert_states_equal, make_pair, network

from fastconv import layers
from fastconv.optim import SGD

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@pytest.mark.parametrize(
    "layer", [layers.Conv1d(3, 2, 3, **F64), layers.ConvTranspose1d(3, 2, 3, **F64), layers.Linear(9, 2, **F64)]
)
def test_backward_parameters_leaves_the_same_gradients(layer):
    x = np.random.default_rng(0).standard_normal((2, 3, 9))
    grad_y = np.ones_like(layer(x))
    layer.backward(grad_y)
    gradients = layer.gradients()
    layer.zero_grad()
    assert layer.gradients() == {}
    layer(x)
    assert layer.backward_parameters(grad_y) is None
    for key, gradient in layer.gradients().items():
        np.testing.assert_allclose(gradient, gradients[key], rtol=1e-12)


def test_zero_grad_leaves_earlier_gradients_alone():
    layer = layers.Linear(2, 2, **F64)
    x = np.ones((1, 2))
    layer.backward(layer(x))
    kept = layer.gradients()["weight"]
    before = kept.copy()
    layer.zero_grad()
    layer.backward(layer(2 * x))
    np.testing.assert_array_equal(kept, before)


def test_two_forwards_are_gone_back_through_last_first():
    layer = layers.Sigmoid()
    first, second = layer(np.array([0.0])), layer(np.array([1.0]))
    np.testing.assert_allclose(layer.backward(np.ones(1)), second * (1 - second), rtol=1e-12)
    np.testing.assert_allclose(layer.backward(np.ones(1)), first * (1 - first), rtol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_backward_without_a_training_forward_raises(name):
    layer, _, draw = make_pair(name)
    x = draw(np.random.default_rng(0))
    with pytest.raises(RuntimeError, match=f"backward of {type(layer).__name__}.*every forward"):
        layer.backward(x)
    y = layer.eval()(x)
    with pytest.raises(RuntimeError, match=f"backward of {type(layer).__name__}.*evaluation mode"):
        layer.backward(y)


def test_evaluation_makes_the_state_read_only_and_training_writeable_again():
    model = network()
    x = np.zeros((1, 1, 6, 6), np.float32)
    assert model.eval() is model
    assert not any(layer.training for _, layer in model.named_layers())
    for change in (
        lambda: model[0].weight.__iadd__(1),
        lambda: setattr(model[0], "weight", np.zeros_like(model[0].weight)),
        lambda: SGD(model.parameters()).step({key: np.ones_like(p) for key, p in model.parameters().items()}),
    ):
        with pytest.raises(ValueError, match="read-only"):
            change()
    model(x)
    assert model.train() is model
    model[0].weight += 1
    model(np.zeros((2, 1, 6, 6), np.float32))


def test_entering_a_mode_forgets_what_was_saved():
    layer = layers.ReLU()
    layer(np.zeros(3))
    layer.train()
    with pytest.raises(RuntimeError, match="every forward"):
        layer.backward(np.zeros(3))


def test_an_evaluated_model_loads_a_state_and_stays_read_only():
    model, other = network().eval(), network(dtype=np.float64)
    other[0].weight += 1
    assert model.load_state_dict(other.state_dict()) == ([], [])
    np.testing.assert_allclose(model[0].weight, other[0].weight, rtol=1e-6)
    assert model[0].weight.dtype == np.float32
    assert not model[0].weight.flags.writeable


def test_a_state_that_does_not_fit_changes_nothing():
    model = network()
    before = {key: value.copy() for key, value in model.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    with pytest.raises(ValueError, match=r"missing \['4\.bias'\], unexpected \['5\.bias'\]"):
        model.load_state_dict({key.replace("4.bias", "5.bias"): value for key, value in state.items()})
    with pytest.raises(ValueError, match=r"'4\.bias' must have shape \(2,\), got \(3,\)"):
        model.load_state_dict(state | {"4.bias": np.zeros(3)})
    assert_states_equal(model.state_dict(), before)
    missing, unexpected = model.load_state_dict({"4.bias": state["4.bias"], "more": np.zeros(1)}, strict=False)
    assert (len(missing), unexpected) == (len(before) - 1, ["more"])
    np.testing.assert_array_equal(model[4].bias, before["4.bias"] + 1)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_keep_values_and_mode(clone):
    model = network().eval()
    twin = clone(model)
    assert_states_equal(twin.state_dict(), model.state_dict())
    assert not twin.training
    assert not twin[0].weight.flags.writeable
    twin.train()[0].weight += 1
    assert (twin[0].weight != model[0].weight).all()
    assert twin.parameters()["0.weight"] is twin[0].weight


def test_assigning_to_a_parameter_copies_into_it():
    layer = layers.Linear(2, 3)
    weight = layer.weight
    layer.weight = np.ones((3, 2))
    assert layer.weight is weight
    np.testing.assert_array_equal(weight, 1)
    with pytest.raises(ValueError, match=r"weight is of shape \(3, 2\).*\(2, 3\)"):
        layer.weight = np.ones((2, 3))
    with pytest.raises(ValueError, match="bias is None"):
        layers.Linear(2, 3, bias=False).bias = np.zeros(3)


def test_many_threads_share_an_evaluated_model():
    model = network().eval()
    inputs = [np.full((2, 1, 6, 6), value, np.float32) for value in range(16)]
    with ThreadPoolExecutor(16) as pool:
        outputs = list(pool.map(model, inputs))
    for x, y in zip(inputs, outputs, strict=True):
        np.testing.assert_array_equal(y, model(x))


def test_no_layer_writes_into_its_input():
    model = network()
    x = np.random.default_rng(0).standard_normal((2, 1, 6, 6)).astype(np.float32)
    x.flags.writeable = False
    picture = x.copy()
    y = model(x)
    y.flags.writeable = False
    gradient = y.copy()
    model.backward(y)
    np.testing.assert_array_equal(x, picture)  # of which kernels in C could write what is not writeable
    np.testing.assert_array_equal(y, gradient)
