"""What every public operator promises, over one table: the oracle's values, on views, threads, and empty batches."""

import copy

import numpy as np
import operators
import pytest
from cases import DTYPES, LAYOUTS
from conftest import each, using_threads
from views import views

import fastconv.functional as ff
from fastconv import reference

NAMES = list(operators.calls())


def arrays_of(arguments):
    return {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}


def call(name, *args, **options):
    """The operator's arguments."""
    return operators.calls(*args, only=name, **options)[name]


def run(name, arguments):
    """Generators are used up by a call, so each call has its own."""
    generators = {k: copy.deepcopy(v) for k, v in arguments.items() if isinstance(v, np.random.Generator)}
    return operators.run(ff, name, arguments | generators)


def assert_close(actual, expected, dtype):
    """To some thousand units in the last place of the largest: operators' own tests are sharper."""
    for a, e in zip(actual, expected, strict=True):
        limit = 2000 * np.finfo(dtype).eps * max(1.0, float(np.abs(e).max(initial=0)))
        np.testing.assert_allclose(a, e, rtol=0, atol=limit)


def test_every_operator_is_in_the_table():
    assert set(NAMES) == set(ff.__all__)


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_oracles(name, dtype, layout, isa):
    arguments = call(name, layout, dtype)
    exact = {
        k: v.astype(np.float64) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
        for k, v in arguments.items()
    }
    results = run(name, arguments)
    if name == "dropout":
        exact = {"x": exact["x"], "mask": results[1], "p": exact["p"]}
    expected = operators.run(reference, name, exact)
    assert_close(results[: len(expected)], expected, dtype)
    for result in results:
        assert np.asarray(result).dtype in (dtype, np.int64, bool)


@pytest.mark.parametrize("name", NAMES)
def test_views_give_the_same_values_and_stay_untouched(name):
    arguments = call(name)
    expected = run(name, arguments)
    for argument, array in arrays_of(arguments).items():
        for kind, view in views(array):
            actual = run(name, arguments | {argument: view})
            for a, e in zip(actual, expected, strict=True):
                np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6, err_msg=f"{argument}: {kind}")
            np.testing.assert_array_equal(view, array, err_msg=f"{argument}: {kind}")


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_bits_do_not_depend_on_the_number_of_threads(name, layout):
    arguments = call(name, layout, sizes=operators.LARGE, batch=3, channels=24)
    with using_threads(1):
        expected = run(name, arguments)
    for count in (2, 5):
        with using_threads(count):
            for a, e in zip(run(name, arguments), expected, strict=True):
                np.testing.assert_array_equal(a, e)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_results_repeat(name, layout):
    arguments = call(name, layout)
    for a, e in zip(run(name, arguments), run(name, arguments), strict=True):
        np.testing.assert_array_equal(a, e)


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_gives_empty_results_and_zero_gradients(name, layout):
    arguments = call(name, layout, batch=0)
    if name in ("cross_entropy", "mse_loss"):
        arguments["reduction"] = "sum"  # the mean of nothing is NaN
    for result in run(name, arguments):
        assert np.all(np.asarray(result) == 0)
