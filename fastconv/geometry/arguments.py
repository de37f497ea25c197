"""Normalised arguments: whatever a user may write for a stride or a padding becomes a tuple of plain integers.

Every function here returns the normal form or raises an error that names the argument, its value and what was
expected. Nothing allocates. Python integers never wrap, so "checked arithmetic" means that each size a kernel would
hold in 64 bits is compared with INT64_MAX.
"""

import reprlib
from collections.abc import Sequence
from math import prod
from typing import Literal, SupportsIndex, TypeGuard

import numpy as np

INT64_MAX = 2**63 - 1
_ITEMSIZE = 8

DATA_FORMATS = ("channels_first", "channels_last")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

Size = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]
DataFormat = Literal["channels_first", "channels_last"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
IntOrTuple = SupportsIndex | Sequence[SupportsIndex]
Padding = IntOrTuple | Sequence[Sequence[SupportsIndex]] | str


def is_int(value: object) -> TypeGuard[SupportsIndex]:
    """Whether `value` is a Python or NumPy integer; a bool is not."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def as_int(value: object, name: str, minimum: int | None = None) -> int:
    """An integer argument as a plain int that fits 64 bits.

    Raises: TypeError for anything but a Python or NumPy integer, ValueError below `minimum` or beyond 64 bits.
    """
    if not is_int(value):
        raise TypeError(f"{name} must be an integer, got {name}={reprlib.repr(value)}")
    number = int(value)
    if minimum is not None and number < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {name}={number}")
    return check_int64(number, name, number)


def as_float(value: object, name: str) -> float:
    """A number as a plain float.

    Raises: TypeError for anything but a Python or NumPy integer or float.
    """
    if not (is_int(value) or isinstance(value, (float, np.floating))):
        raise TypeError(f"{name} must be a number, got {name}={reprlib.repr(value)}")
    return float(value)


def as_bool(value: object, name: str) -> bool:
    """A flag as a plain bool.

    Raises: TypeError for anything but a Python or NumPy bool.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {name}={reprlib.repr(value)}")
    return bool(value)


def as_tuple(value: object, ndim: int, name: str, minimum: int | None = None, expected: str = "") -> Size:
    """An integer, a 1-tuple or a tuple of `ndim` integers as a tuple of `ndim` plain ints.

    Raises: TypeError for floats, bools, strings and arrays, ValueError for a wrong length, a value below `minimum` or
    beyond 64 bits; both say what was `expected`, by default this.
    """
    expected = expected or f"an integer or a tuple of {_count(ndim, 'integer')}"
    if is_int(value):
        numbers: Size = (int(value),)
    elif isinstance(value, (tuple, list)) and all(is_int(v) for v in value):
        numbers = tuple(int(v) for v in value)
    else:
        raise TypeError(f"{name} must be {expected}, got {name}={reprlib.repr(value)}")
    if len(numbers) not in (1, ndim):
        raise ValueError(f"{name} must be {expected}, got {name}={reprlib.repr(value)}")
    _check_range(numbers, name, minimum, value)
    return numbers if len(numbers) == ndim else numbers * ndim


def as_shape(shape: object, ndim: int, name: str, layout: str) -> Size:
    """A shape of exactly `ndim` sizes >= 0; `layout` is what the error shows as expected, e.g. "(N, C, H, W)"."""
    if not isinstance(shape, (tuple, list)) or not all(is_int(v) for v in shape):
        raise TypeError(f"{name} must be a tuple of integers {layout}, got {name}={reprlib.repr(shape)}")
    if len(shape) != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions {layout}, got {name}={tuple(shape)}")
    return tuple(as_int(v, name, minimum=0) for v in shape)


def as_padding(padding: object, kernel: Size, stride: Size, dilation: Size) -> Pairs:
    """The padding as ((before, after), ...), one pair an axis.

    `padding` is an integer, a tuple of integers, pairs ((before, after), ...), "valid" (none) or "same": the output of
    a stride-1 window has the input's size, total = dilation (kernel - 1), an odd total pads one more at the end.

    Raises: TypeError for other types, ValueError for other strings, wrong lengths, negative values, and for "same"
    with a stride above 1.
    """
    if isinstance(padding, str):
        return _named_padding(padding, kernel, stride, dilation)
    ndim = len(kernel)
    ints, pairs = _count(ndim, "integer"), _count(ndim, "pair")
    expected = f'an integer, a tuple of {ints}, {pairs} ((before, after), ...), "same" or "valid"'
    if isinstance(padding, (tuple, list)) and any(isinstance(p, (tuple, list)) for p in padding):
        return _paired_padding(padding, ndim, expected)
    return tuple((p, p) for p in as_tuple(padding, ndim, "padding", 0, expected))


def _named_padding(padding: str, kernel: Size, stride: Size, dilation: Size) -> Pairs:
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding != "same":
        raise ValueError(f'padding must be "same" or "valid" when it is a string, got padding={padding!r}')
    if any(s != 1 for s in stride):
        raise ValueError(f'stride must be 1 along every axis with padding="same", got stride={stride}')
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def _paired_padding(padding: Sequence[object], ndim: int, expected: str) -> Pairs:
    pairs = [
        tuple(int(p) for p in pair)
        for pair in padding
        if isinstance(pair, (tuple, list)) and all(is_int(p) for p in pair)
    ]
    if len(pairs) < len(padding):
        raise TypeError(f"padding must be {expected}, got padding={reprlib.repr(padding)}")
    if len(pairs) not in (1, ndim) or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"padding must be {expected}, got padding={reprlib.repr(padding)}")
    for pair in pairs:
        _check_range(pair, "padding", 0, padding)
    return tuple((before, after) for before, after in (pairs if len(pairs) == ndim else pairs * ndim))


def check_choice(value: object, name: str, choices: Sequence[str]) -> None:
    """Raise unless `value` is one of the strings `choices`."""
    if not isinstance(value, str) or value not in choices:
        kind = ValueError if isinstance(value, str) else TypeError
        names = [repr(choice) for choice in choices]
        expected = " or ".join((", ".join(names[:-1]), names[-1]) if names[1:] else names)
        raise kind(f"{name} must be {expected}, got {name}={reprlib.repr(value)}")


def is_channels_last(data_format: object) -> bool:
    """Whether `data_format` says "channels_last".

    Raises: TypeError/ValueError for anything but "channels_first" and "channels_last".
    """
    check_choice(data_format, "data_format", DATA_FORMATS)
    return data_format == "channels_last"


def check_padding_mode(padding_mode: object, padding: Pairs, in_size: Size) -> None:
    """Raise when `padding_mode` cannot supply `padding`: "reflect" has size - 1 values a side, "circular" size."""
    check_choice(padding_mode, "padding_mode", PADDING_MODES)
    slack = {"reflect": 1, "circular": 0}.get(str(padding_mode))
    if slack is None:
        return
    if any(max(pair) > size - slack for pair, size in zip(padding, in_size, strict=True)):
        relation = "smaller than" if slack else "at most"
        raise ValueError(
            f"padding must be {relation} the input size {in_size} with padding_mode={padding_mode!r}, "
            f"got padding={padding}"
        )


def check_divisor_override(divisor_override: object) -> int | None:
    """The divisor of an average pool, None or any integer but 0.

    Raises: TypeError unless None or an integer, ValueError for 0.
    """
    if divisor_override is None:
        return None
    divisor = as_int(divisor_override, "divisor_override")
    if divisor == 0:
        raise ValueError("divisor_override must not be 0, got divisor_override=0")
    return divisor


def check_int64(size: int, name: str, shown: object) -> int:
    """`size` itself, or a ValueError that blames argument `name` (of value `shown`) for a size beyond 64 bits."""
    if not -INT64_MAX - 1 <= size <= INT64_MAX:
        raise ValueError(f"{name} must keep every size below 2**63, got {name}={shown}")
    return size


def check_bytes(shape: Size, **arguments: object) -> None:
    """Raise, naming the `arguments` that led to it, when a float64 array of `shape` has more bytes than 64 bits count.

    An empty batch counts as one: its strides are computed all the same.
    """
    if prod(max(size, 1) for size in shape) * _ITEMSIZE > INT64_MAX:
        names = " and ".join(arguments)
        values = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise ValueError(f"{names} must give arrays below 2**63 bytes, got {values} for the shape {shape}")


def _check_range(numbers: Size, name: str, minimum: int | None, shown: object) -> None:
    for number in numbers:
        if minimum is not None and number < minimum:
            raise ValueError(f"{name} must be >= {minimum} along every axis, got {name}={shown}")
        check_int64(number, name, shown)


def _count(ndim: int, noun: str) -> str:
    return f"{ndim} {noun}" + ("s" if ndim > 1 else "")
