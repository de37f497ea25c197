"""What a function pads before a convolution, told without padding: the convolution pads as it reads.

Ports of TensorFlow's models pad by a function of their own, whose numbers hang on the input's size, so that no trace
knows them. It is run, and its call of ``F.pad`` is taken down instead of made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from fastconv.backends.torch.arrays import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Padded:
    """What ``F.pad(x, pads)`` would make; nothing can be done with it but that."""

    x: Tensor
    pads: tuple[int, ...]

    def made(self) -> Tensor:
        return F.pad(self.x, self.pads)

    def beside(self, padding: tuple[int, ...]) -> tuple[int, ...]:
        """A convolution's padding, before and after each axis in turn, with these pads, which name the last first.

        Raises
        ------
        ValueError
            If a pad is negative, or not of a spatial axis.
        """
        if min(self.pads, default=0) < 0 or len(self.pads) > len(padding) or len(self.pads) % 2:
            raise ValueError(f"pads must be two or none of each spatial axis and not negative, got {self.pads}")
        total = list(padding)
        for place in range(0, len(self.pads), 2):
            axis = len(padding) - 2 - place
            total[axis] += self.pads[place]
            total[axis + 1] += self.pads[place + 1]
        return tuple(total)


class _TakesDown(TorchFunctionMode):
    """Gives what zeros are padded to without making it; every other call is made."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.pad and (padded := _of_zeros(*args, **kwargs)) is not None:
            return padded
        return func(*args, **kwargs)


def _of_zeros(input: Any, pad: Any, mode: str = "constant", value: Any = None) -> Padded | None:
    plain = type(input) in (Tensor, nn.Parameter) and all(type(number) is int for number in pad)
    return Padded(input, tuple(pad)) if plain and mode == "constant" and value in (None, 0) else None


class Padding:
    """A function that may pad what a convolution reads."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._is_open = True  # whether it leaves a padded input as it is

    def __call__(self, x: Tensor, *others: Any) -> Any:
        """What the function returns, or what it would be `Padded` to."""
        if self._is_open:
            try:
                with _TakesDown():
                    return self.function(x, *others)
            except Exception:  # it wanted a tensor
                self._is_open = False
        return self.function(x, *others)
