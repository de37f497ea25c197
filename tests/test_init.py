"""Initializers: the distributions that their formulas say, seeded."""

import numpy as np
import pytest
import torch

from fastconv import init

pytestmark = pytest.mark.isa_independent

SHAPE = (64, 32, 3, 3)


def test_fans_are_torchs():
    assert init.fans(SHAPE) == torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(SHAPE)) == (288, 576)


def test_fans_of_a_vector_raise():
    with pytest.raises(ValueError, match="two axes"):
        init.fans((3,))


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("nonlinearity", ["linear", "sigmoid", "tanh", "relu", "leaky_relu"])
def test_kaiming_has_torchs_deviation(mode, nonlinearity):
    fan = init.fans(SHAPE)[mode == "fan_out"]
    expected = torch.nn.init.calculate_gain(nonlinearity, 0.2) / fan**0.5
    uniform = init.kaiming_uniform(SHAPE, 0.2, mode, nonlinearity, rng=0, dtype=np.float64)
    normal = init.kaiming_normal(SHAPE, 0.2, mode, nonlinearity, rng=0, dtype=np.float64)
    assert abs(uniform).max() <= expected * 3**0.5
    for values in (uniform, normal):
        assert values.std() == pytest.approx(expected, rel=0.02)
        assert values.mean() == pytest.approx(0, abs=0.03 * expected)


def test_glorot_has_its_formulas_deviation():
    expected = (2 / sum(init.fans(SHAPE))) ** 0.5
    assert init.glorot_normal(SHAPE, rng=0).std() == pytest.approx(expected, rel=0.02)
    assert init.glorot_uniform(SHAPE, rng=0).std() == pytest.approx(expected, rel=0.02)
    assert abs(init.glorot_uniform(SHAPE, gain=2, rng=0)).max() <= 2 * expected * 3**0.5


def test_default_is_torchs_kaiming_uniform_with_slope_root_five():
    fan_in, _ = init.fans(SHAPE)
    values = init.fan_in_uniform(SHAPE, rng=0)
    assert abs(values).max() <= fan_in**-0.5
    assert abs(values).max() == pytest.approx(fan_in**-0.5, rel=0.01)


@pytest.mark.parametrize("initializer", [init.kaiming_uniform, init.kaiming_normal, init.glorot_uniform, init.normal])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_seed_gives_one_result(initializer, dtype):
    values = initializer(SHAPE, rng=7, dtype=dtype)
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, initializer(SHAPE, rng=np.random.default_rng(7), dtype=dtype))
    assert (values != initializer(SHAPE, rng=8, dtype=dtype)).any()


def test_a_generator_is_advanced():
    rng = np.random.default_rng(0)
    assert (init.normal((4,), rng=rng) != init.normal((4,), rng=rng)).all()


def test_bad_choices_are_named():
    with pytest.raises(ValueError, match=r"mode.*'fan'"):
        init.kaiming_normal(SHAPE, mode="fan")
    with pytest.raises(ValueError, match=r"nonlinearity.*'gelu'"):
        init.kaiming_normal(SHAPE, nonlinearity="gelu")
