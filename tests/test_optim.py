"""Optimizers: torch.optim's parameters after 20 steps, and errors."""

import numpy as np
import pytest
import torch

from fastconv.optim import SGD, Adam

pytestmark = pytest.mark.isa_independent

SHAPES = {"weight": (4, 3, 2), "bias": (4,), "scale": ()}


def _values(rng, dtype):
    return {key: np.asarray(rng.standard_normal(shape), dtype) for key, shape in SHAPES.items()}


SETTINGS = [
    (SGD, torch.optim.SGD, {"lr": 0.1}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}),
    (Adam, torch.optim.Adam, {}),
    (Adam, torch.optim.Adam, {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("ours", "theirs", "settings"), SETTINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_twenty_steps_are_torchs(ours, theirs, settings, dtype):
    rng = np.random.default_rng(0)
    parameters = _values(rng, dtype)
    tensors = {key: torch.tensor(value, requires_grad=True) for key, value in parameters.items()}
    optimizer, oracle = ours(parameters, **settings), theirs(tensors.values(), **settings)
    for step in range(20):
        gradients = _values(rng, dtype)
        if step % 3 == 1:  # a parameter without a gradient is left alone, its state too
            del gradients["bias"]
        if step == 10:
            optimizer.lr /= 2
            oracle.param_groups[0]["lr"] /= 2
        kept = {key: value.copy() for key, value in gradients.items()}
        optimizer.step(gradients)
        for key, tensor in tensors.items():
            tensor.grad = torch.tensor(gradients[key]) if key in gradients else None
            if key in gradients:
                np.testing.assert_array_equal(gradients[key], kept[key])
        oracle.step()
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    for key, tensor in tensors.items():
        assert parameters[key].dtype == dtype
        np.testing.assert_allclose(parameters[key], tensor.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, momentum=0.9), lambda p: Adam(p, 0.1)])
def test_state_resumes(make):
    rng = np.random.default_rng(0)
    first = _values(rng, np.float64)
    gradients = [_values(rng, np.float64) for _ in range(6)]
    optimizer = make(first)
    for gradient in gradients[:3]:
        optimizer.step(gradient)
    second = {key: value.copy() for key, value in first.items()}
    resumed = make(second)
    resumed.load_state_dict(optimizer.state_dict())
    for gradient in gradients[3:]:
        optimizer.step(gradient)
        resumed.step(gradient)
    for key in SHAPES:
        np.testing.assert_array_equal(first[key], second[key])


def test_some_parameters_alone_can_be_trained():
    parameters = _values(np.random.default_rng(0), np.float64)
    before = {key: value.copy() for key, value in parameters.items()}
    SGD({"bias": parameters["bias"]}, lr=1).step({key: np.ones(shape) for key, shape in SHAPES.items()})
    np.testing.assert_array_equal(parameters["weight"], before["weight"])
    np.testing.assert_array_equal(parameters["bias"], before["bias"] - 1)


def test_gradients_of_another_model_raise():
    optimizer = SGD({"0.weight": np.zeros(2)})
    with pytest.raises(ValueError, match=r"'weight'.*'0\.weight'.*call backward"):
        optimizer.step({"weight": np.zeros(2)})
    with pytest.raises(ValueError, match="no keys"):
        optimizer.step({})


def test_a_wrong_shape_raises_before_anything_changes():
    parameters = {"a": np.zeros(2), "b": np.zeros(2)}
    with pytest.raises(ValueError, match=r"'b'.*\(3,\).*\(2,\)"):
        SGD(parameters, lr=1).step({"a": np.ones(2), "b": np.ones(3)})
    np.testing.assert_array_equal(parameters["a"], 0)


def test_read_only_parameters_raise():
    weight = np.zeros(2)
    weight.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        SGD({"weight": weight}).step({"weight": np.ones(2)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: SGD({}), "parameters is empty"),
        (lambda p: SGD(p, lr=-1), "lr must be"),
        (lambda p: SGD(p, lr=float("nan")), "lr must be"),
        (lambda p: SGD(p, momentum=-0.1), "momentum must be"),
        (lambda p: SGD(p, weight_decay=-0.1), "weight_decay must be"),
        (lambda p: SGD(p, nesterov=True), "nesterov=True needs momentum"),
        (lambda p: SGD(p, momentum=0.9, dampening=0.1, nesterov=True), "dampening=0.1"),
        (lambda p: Adam(p, betas=(0.9, 1.0)), "betas must be"),
        (lambda p: Adam(p, eps=-1), "eps must be"),
        (lambda p: SGD(p, momentum=0.9).load_state_dict({"momentum.b": np.zeros(2)}), r"'momentum\.b'"),
        (lambda p: Adam(p).load_state_dict({"momentum.a": np.zeros(2)}), r"'momentum\.a'.*Adam"),
        (lambda p: SGD(p, momentum=0.9).load_state_dict({"momentum.a": np.zeros(3)}), r"shape \(3,\)"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make({"a": np.zeros(2)})
