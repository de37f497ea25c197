"""What an array must be before a kernel may read it or write into it."""

from collections.abc import Iterable

import numpy as np

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))

# Whether strided arrays share memory is a Diophantine problem, exponential at worst; past this much work NumPy
# answers yes. A contiguous `out` against an input of any stride pattern met so far needs far less.
_OVERLAP_WORK = 100_000


def check_array(x: object, name: str, ndim: int | tuple[int, ...] | None = None) -> None:
    """Raise unless `x` is a float32 or float64 NumPy array of native byte order with `ndim` dimensions.

    Parameters
    ----------
    x: the object to check
    name: the argument's name, for the error
    ndim: the number of dimensions, or those allowed, default any

    Raises: TypeError for another type or dtype (saying how to cast), ValueError for another number of dimensions.
    """
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(x).__name__}; convert it with np.asarray({name})")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32 or float64, got dtype {x.dtype}; {_how_to_cast(x.dtype, name)}")
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if allowed is not None and x.ndim not in allowed:
        expected = " or ".join(str(n) for n in allowed)
        raise ValueError(f"{name} must have {expected} dimensions, got {name}.shape={x.shape}")


def check_same_dtype(**arrays: np.ndarray | None) -> np.dtype:
    """The dtype that all the named arrays share; None stands for an argument that was not given.

    Raises: TypeError naming the first array that differs and how to cast it.
    """
    named = [(name, array) for name, array in arrays.items() if array is not None]
    first, reference = named[0]
    for name, array in named[1:]:
        if array.dtype != reference.dtype:
            raise TypeError(
                f"{name} must have the dtype of {first}, {reference.dtype}, got {array.dtype}; "
                f"cast it with {name}.astype({first}.dtype)"
            )
    return reference.dtype


def check_out(out: object, shape: tuple[int, ...], dtype: np.dtype, inputs: Iterable[np.ndarray | None] = ()) -> None:
    """Raise unless `out` can take a result of `shape` and `dtype` while `inputs` are read.

    It must be a C-contiguous, aligned, writeable array that shares no memory with any of `inputs` (None is skipped).

    Raises: TypeError for another type or dtype, ValueError for the rest.
    """
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype}, got dtype {out.dtype}")
    if out.shape != tuple(shape):
        raise ValueError(f"out must have shape {tuple(shape)}, got out.shape={out.shape}")
    if not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous, got out.strides={out.strides} for out.shape={out.shape}")
    if not out.flags.aligned:
        raise ValueError(f"out must be aligned to its dtype {dtype}, got out.ctypes.data={out.ctypes.data:#x}")
    if not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array")
    if any(x is not None and np.may_share_memory(out, x, max_work=_OVERLAP_WORK) for x in inputs):  # type: ignore[arg-type]
        raise ValueError("out must not share memory with an input, got an array that overlaps one")


def _how_to_cast(dtype: np.dtype, name: str) -> str:
    if dtype.newbyteorder("=") in DTYPES:
        return f"bring it to native byte order with {name}.astype({name}.dtype.newbyteorder('='))"
    if dtype.kind == "c":
        return f"take {name}.real and {name}.imag apart"
    target = "float64" if dtype.kind == "f" and dtype.itemsize > 8 else "float32"
    return f"cast it with {name}.astype(np.{target})"
