"""Saving arrays by key and loading them again: NumPy's `.npz` and `.safetensors`, chosen by the file's suffix.

    checkpoint.save("lenet5.npz", model.state_dict())
    model.load_state_dict(checkpoint.load("lenet5.npz"))

A checkpoint is written to a temporary file beside it, brought to disk, and only then given its name: whatever
interrupts a save, the name holds either the last whole checkpoint or the new one.
"""

from __future__ import annotations

import os
import uuid
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def save(path: str | os.PathLike[str], state: Mapping[str, ArrayLike]) -> None:
    """Write arrays by key to a file that other NumPy, PyTorch and Keras programs can read.

    Parameters
    ----------
    path
        Where to; the suffix, `.npz` or `.safetensors`, chooses the format. An older file is replaced in one step.
    state
        Arrays of numbers or truth values by key, such as `model.state_dict()`.

    Raises
    ------
    ValueError
        If the suffix is neither.
    TypeError
        If a value is not an array of numbers or truth values.
    ModuleNotFoundError
        If the safetensors package is missing.
    """
    path = Path(path)
    write, _ = _format(path)
    arrays = {key: _plain(key, value) for key, value in state.items()}
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary, arrays)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # a Ctrl-C too must not leave the temporary file behind
        temporary.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read the arrays by key from a file that `save`, NumPy or safetensors wrote.

    Raises
    ------
    ValueError
        If the suffix is neither `.npz` nor `.safetensors`, or the file is damaged or cut short.
    FileNotFoundError
        If there is no such file.
    ModuleNotFoundError
        If the safetensors package is missing.
    """
    path = Path(path)
    _, read = _format(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    return read(path)


def _write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    # np.savez takes the keys as keyword arguments, of which "file" is already its own.
    with zipfile.ZipFile(path, "x") as archive:
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a whole .npz checkpoint ({error})") from error


def _write_safetensors(path: Path, arrays: Mapping[str, Array]) -> None:
    _safetensors().save_file(dict(arrays), path)


def _read_safetensors(path: Path) -> dict[str, Array]:
    package = _safetensors()
    try:
        arrays: dict[str, Array] = package.load_file(path)
    except Exception as error:  # the package's own error class has no public home common to its versions
        raise ValueError(f"{path}: not a whole .safetensors checkpoint ({error})") from error
    return arrays


def _safetensors() -> ModuleType:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a .safetensors checkpoint needs the safetensors package: pip install 'fastconv[safetensors]'"
        ) from error
    return safetensors.numpy


Writer = Callable[[Path, Mapping[str, Array]], None]
Reader = Callable[[Path], dict[str, Array]]
_FORMATS: dict[str, tuple[Writer, Reader]] = {
    ".npz": (_write_npz, _read_npz),
    ".safetensors": (_write_safetensors, _read_safetensors),
}


def _format(path: Path) -> tuple[Writer, Reader]:
    if path.suffix not in _FORMATS:
        raise ValueError(f"{path}: a checkpoint's suffix must be one of {', '.join(_FORMATS)}, got {path.suffix!r}")
    return _FORMATS[path.suffix]


def _plain(key: str, value: ArrayLike) -> Array:
    """Return value as a C-ordered array in the machine's byte order; safetensors would write any other one wrongly."""
    array = np.asarray(value, order="C")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{key!r} must be an array of numbers or truth values, got dtype {array.dtype}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)
