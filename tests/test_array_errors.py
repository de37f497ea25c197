"""Errors about arrays: dtypes, ranks, and an `out` that does not fit or overlaps an input."""

import numpy as np
import pytest

from fastconv.geometry import check_array, check_out, check_same_dtype

pytestmark = pytest.mark.isa_independent


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        ("int64", "x.astype(np.float32)"),
        ("uint8", "x.astype(np.float32)"),
        ("bool", "x.astype(np.float32)"),
        ("float16", "x.astype(np.float32)"),
        ("longdouble", "x.astype(np.float64)"),
        ("complex64", "x.real and x.imag"),
        (">f4", "x.astype(x.dtype.newbyteorder('='))"),
        (">f8", "x.astype(x.dtype.newbyteorder('='))"),
    ],
)
def test_other_dtypes_say_how_to_cast(dtype, advice):
    x = np.zeros(3, dtype)
    with pytest.raises(TypeError, match=f"x must be float32 or float64, got dtype {x.dtype}") as error:
        check_array(x, "x")
    assert advice in str(error.value)
    if dtype != "complex64":
        check_array(eval(advice.split()[-1]), "x")


@pytest.mark.parametrize("x", [[1.0], 1.0, np.float32(1), None])
def test_only_arrays_are_arrays(x):
    with pytest.raises(TypeError, match=r"weight must be a NumPy array, got \w+; convert it with np.asarray\(weight\)"):
        check_array(x, "weight")


def test_ranks():
    check_array(np.zeros((1, 2)), "x", 2)
    check_array(np.zeros((1, 2)), "x", (1, 2))
    with pytest.raises(ValueError, match=r"x must have 3 or 4 dimensions, got x.shape=\(1, 2\)"):
        check_array(np.zeros((1, 2)), "x", (3, 4))


def test_mixed_dtypes():
    single, double = np.zeros(1, np.float32), np.zeros(1, np.float64)
    assert check_same_dtype(x=single, weight=single, bias=None) == np.float32
    with pytest.raises(
        TypeError, match=r"bias must have the dtype of x, float32, got float64; cast it with bias.astype"
    ):
        check_same_dtype(x=single, weight=single, bias=double)


OUT = np.zeros((4, 6), np.float32)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ([0.0], TypeError, "out must be a NumPy array, got list"),
        (np.zeros((4, 6)), TypeError, "out must have dtype float32, got dtype float64"),
        (np.zeros((4, 6), ">f4"), TypeError, "out must have dtype float32, got dtype >f4"),
        (np.zeros((6, 4), np.float32), ValueError, r"out must have shape \(4, 6\), got out.shape=\(6, 4\)"),
        (np.zeros((6, 4), np.float32).T, ValueError, r"out must be C-contiguous, got out.strides=\(4, 16\)"),
        (np.frombuffer(bytes(96), np.float32).reshape(4, 6), ValueError, "out must be writeable"),
        (
            np.frombuffer(bytearray(97), np.float32, offset=1).reshape(4, 6),
            ValueError,
            "out must be aligned to its dtype float32",
        ),
    ],
)
def test_out_must_fit(out, error, message):
    with pytest.raises(error, match=message):
        check_out(out, (4, 6), np.dtype(np.float32))


def test_out_may_not_overlap_an_input():
    memory = np.zeros((8, 6), np.float32)
    out, x = memory[:4], np.zeros(3, np.float32)
    for overlapping in (memory, out, memory[3:], memory[::-1, ::-1], memory.T[::2]):
        with pytest.raises(ValueError, match="out must not share memory with an input"):
            check_out(out, (4, 6), out.dtype, (x, None, overlapping))
    check_out(out, (4, 6), out.dtype, (x, None, memory[4:], memory[4:, ::-2]))


def test_out_may_interleave_with_an_input_that_never_meets_it():
    memory = np.zeros((4, 2, 6), np.float32)
    check_out(memory[1, :1], (1, 6), memory.dtype, (memory[::2], memory[:, 1]))


def test_an_overlap_too_hard_to_decide_counts_as_one(monkeypatch):
    memory = np.zeros(1000, np.float64)
    x = np.lib.stride_tricks.as_strided(memory, (4, 4, 4), (8 * 51, 8 * 67, 8 * 85))
    out = memory[300:301]
    check_out(out, (1,), out.dtype, (x,))
    monkeypatch.setattr("fastconv.geometry.arrays._OVERLAP_WORK", 1)
    with pytest.raises(ValueError, match="out must not share memory"):
        check_out(out, (1,), out.dtype, (x,))
