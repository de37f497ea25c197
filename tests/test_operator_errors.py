"""Every public operator, by its signature, refuses wrong arguments by name."""

import copy
import inspect
import re

import numpy as np
import operators
import pytest

import fastconv.functional as ff

pytestmark = pytest.mark.isa_independent

CALLS = operators.calls()
WRONG_TYPES = {
    "int": [1.5, True, None, "2"],
    "IntOrTuple": [1.5, True, (1, 1.5)],
    "OutputSize": [1.5, True, "3"],
    "Padding": [1.5, True],
    "Pads": [1.5, None],
    "bool": ["yes", 1, None],
    "float": ["half", None],
    "str": [7, None, ["zeros"]],
    "Shape": [7, "ab", (2.0, 4), ()],
}


def float_arrays(arguments):
    return {k: v for k, v in arguments.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}


def assert_refused(name, argument, value, error=(TypeError, ValueError)):
    """The error begins with the argument's name, as all errors do."""
    arguments = {k: copy.deepcopy(v) for k, v in CALLS[name].items()} | {argument: value}
    with pytest.raises(error) as raised:
        getattr(ff, name)(**arguments)
    assert re.match(rf"{argument.replace('_', '[._]')}(\.shape)?(\[\d+\])? must ", str(raised.value)), str(raised.value)


def parameters(*annotations):
    """(operator, parameter) of every operator's parameters of these annotations."""
    return [
        (name, parameter.name, parameter.annotation)
        for name in CALLS
        for parameter in inspect.signature(getattr(ff, name)).parameters.values()
        if parameter.annotation.replace(" | None", "") in annotations and parameter.name != "grad_loss"
    ]


@pytest.mark.parametrize("name", CALLS)
def test_operators_refuse_other_arrays(name):
    for argument, array in float_arrays(CALLS[name]).items():
        assert_refused(name, argument, array.tolist(), TypeError)
        assert_refused(name, argument, array.astype(np.int64), TypeError)
        assert_refused(name, argument, array.astype(np.float16), TypeError)
        assert_refused(name, argument, array.astype(np.complex64), TypeError)
        assert_refused(name, argument, array.astype(array.dtype.newbyteorder("S")), TypeError)


@pytest.mark.parametrize("name", [name for name, arguments in CALLS.items() if len(float_arrays(arguments)) > 1])
def test_operators_refuse_mixed_dtypes(name):
    arguments = CALLS[name]
    for argument, array in float_arrays(arguments).items():
        with pytest.raises(TypeError, match=r"(\w+) must have the dtype of \w+, float\d\d, got float\d\d; cast"):
            getattr(ff, name)(**arguments | {argument: array.astype(np.float64)})


FREE = ("dropout_backward", "pad_backward")  # nothing says how large grad_y should be


@pytest.mark.parametrize("name", [name for name in CALLS if "grad_y" in CALLS[name] and name not in FREE])
def test_backwards_refuse_gradients_of_another_shape(name):
    grad_y = CALLS[name]["grad_y"]
    assert_refused(name, "grad_y", np.concatenate([grad_y, grad_y]), ValueError)
    assert_refused(name, "grad_y", grad_y[..., None], ValueError)


@pytest.mark.parametrize(("name", "parameter", "annotation"), parameters(*WRONG_TYPES))
def test_operators_refuse_options_of_another_type(name, parameter, annotation):
    optional = annotation.endswith(" | None")
    for value in WRONG_TYPES[annotation.replace(" | None", "")]:
        if not (value is None and optional):
            assert_refused(name, parameter, value, (TypeError, ValueError))


@pytest.mark.parametrize(("name", "parameter"), [p[:2] for p in parameters("str")])
def test_operators_refuse_unknown_names(name, parameter):
    assert_refused(name, parameter, "sideways", ValueError)


@pytest.mark.parametrize("name", [name for name in CALLS if "out" in inspect.signature(getattr(ff, name)).parameters])
def test_operators_refuse_a_wrong_out_and_leave_it_alone(name):
    arguments = {k: copy.deepcopy(v) for k, v in CALLS[name].items()}
    y = operators.run(ff, name, arguments)[0]
    read_only = np.full_like(y, 7)
    read_only.flags.writeable = False
    wrong = [np.full(y.shape, 7.0), np.full((*y.shape, 2), 7, y.dtype), read_only, [7.0]]
    if y.ndim > 1 and y.shape[-1] > 1:
        wrong.append(np.full_like(y, 7, order="F"))
    for out in wrong:
        assert_refused(name, "out", out)
        assert np.all(np.asarray(out) == 7)
