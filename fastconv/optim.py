"""Optimizers: stochastic gradient descent with momentum, and Adam. Both follow PyTorch's update rule to the letter.

An optimizer holds a dictionary of parameter arrays, changes them in place, and is given the gradients at each step,
which is one pass over both on all threads::

    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.step(model.gradients())
    model.zero_grad()

Any dictionary of float32 or float64 arrays will do, so a network that does not use fastconv's layers can use its
optimizers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastconv.geometry import check_array
from fastconv.kernels import optimize

Array = NDArray[Any]


class Optimizer(ABC):
    """Parameters by key, a learning rate that may be changed between steps, and state arrays by slot and key."""

    slots: ClassVar[tuple[str, ...]]

    def __init__(self, parameters: Mapping[str, Array], lr: float, weight_decay: float) -> None:
        if not parameters:
            raise ValueError("parameters is empty: there is nothing to optimize")
        for key, parameter in parameters.items():
            check_array(parameter, f"parameters[{key!r}]")
        self.parameters = dict(parameters)
        self.lr = _non_negative("lr", lr)
        self.weight_decay = _non_negative("weight_decay", weight_decay)
        self.state: dict[str, dict[str, Array]] = {slot: {} for slot in self.slots}

    def step(self, gradients: Mapping[str, Array]) -> None:
        """Update every parameter that has a gradient, in place; the gradients are not changed.

        Raises
        ------
        ValueError
            If no parameter has a gradient, a gradient's shape is not its parameter's, or a parameter is read-only
            because its model is in evaluation mode. Nothing has been changed then.
        """
        keys = [key for key in self.parameters if key in gradients]
        if not keys:
            raise ValueError(
                f"gradients has none of the parameters' keys (it has {_some(gradients)}, the parameters are "
                f"{_some(self.parameters)}): call backward before step, on the model whose parameters these are"
            )
        for key in keys:
            parameter = self.parameters[key]
            if gradients[key].shape != parameter.shape:
                raise ValueError(
                    f"gradients[{key!r}] has shape {gradients[key].shape}, its parameter {parameter.shape}"
                )
            if not parameter.flags.writeable:
                raise ValueError(f"parameters[{key!r}] is read-only: call train() on the model whose parameter it is")
        for key in keys:
            parameter = self.parameters[key]
            with _in_place(parameter) as weight:
                self._descend(key, weight, np.require(gradients[key], weight.dtype, ("C", "A")))

    @abstractmethod
    def _descend(self, key: str, weight: Array, gradient: Array) -> None:
        """Change parameter `key`, a contiguous array, and its state in place."""

    def state_dict(self) -> dict[str, Array]:
        """Return the state as one flat dictionary, "slot.key" to array, which a checkpoint can hold."""
        return {f"{slot}.{key}": array for slot, arrays in self.state.items() for key, array in arrays.items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Replace the state by a copy of one that `state_dict` returned.

        Raises
        ------
        ValueError
            If an entry belongs to no slot or no parameter of this optimizer, or its shape is not the parameter's.
        """
        loaded: dict[str, dict[str, Array]] = {slot: {} for slot in self.slots}
        for entry, array in state.items():
            slot, _, key = entry.partition(".")
            if slot not in self.slots or key not in self.parameters:
                raise ValueError(f"state has {entry!r}: {type(self).__name__} keeps {self.slots} of its parameters")
            if array.ndim and array.shape != self.parameters[key].shape:
                raise ValueError(f"{entry!r} has shape {array.shape}, its parameter {self.parameters[key].shape}")
            loaded[slot][key] = np.array(array, order="C")
        self.state = loaded


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum.

    g = grad + weight_decay * w;  v = momentum * v + (1 - dampening) * g, at the first step v = g;
    w -= lr * v, or with nesterov w -= lr * (g + momentum * v).

    Parameters
    ----------
    parameters
        Arrays by key; changed in place.
    lr
        Learning rate; may be changed between steps by assigning `optimizer.lr`. Default 1e-3.
    momentum, dampening, weight_decay
        As in the formula. Default 0.
    nesterov
        Look ahead along the momentum; needs momentum > 0 and no dampening. Default False.

    Raises
    ------
    ValueError
        If an argument is negative, or nesterov is asked for without momentum.

    Source: Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning", 2013.
    """

    slots = ("momentum",)

    def __init__(
        self,
        parameters: Mapping[str, Array],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.momentum = _non_negative("momentum", momentum)
        self.dampening = float(dampening)
        self.nesterov = nesterov
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(
                f"nesterov=True needs momentum > 0 and dampening = 0, got momentum={momentum}, dampening={dampening}"
            )

    def _descend(self, key: str, weight: Array, gradient: Array) -> None:
        velocities, gain = self.state["momentum"], 1 - self.dampening
        if self.momentum and key not in velocities:
            velocities[key], gain = np.zeros_like(weight), 1.0
        optimize.sgd(
            self.lr, self.momentum, gain, self.weight_decay, self.nesterov, weight, gradient, velocities.get(key)
        )


class Adam(Optimizer):
    """Adam: steps scaled by running means of the gradient and of its square, both corrected for starting at zero.

    g = grad + weight_decay * w;  m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2;
    w -= lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps), where t counts this parameter's steps from 1.

    Parameters
    ----------
    parameters
        Arrays by key; changed in place.
    lr
        Learning rate; may be changed between steps by assigning `optimizer.lr`. Default 1e-3.
    betas
        (beta1, beta2), each in [0, 1). Default (0.9, 0.999).
    eps
        Keeps the division finite. Default 1e-8.
    weight_decay
        As in the formula. Default 0.

    Raises
    ------
    ValueError
        If an argument is negative or a beta is not in [0, 1).

    Source: Kingma, Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1.
    """

    slots = ("step", "mean", "square")

    def __init__(
        self,
        parameters: Mapping[str, Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas}")
        self.betas = (float(betas[0]), float(betas[1]))
        self.eps = _non_negative("eps", eps)

    def _descend(self, key: str, weight: Array, gradient: Array) -> None:
        beta1, beta2 = self.betas
        steps, means, squares = (self.state[slot] for slot in self.slots)
        if key not in steps:
            steps[key], means[key], squares[key] = np.array(0), np.zeros_like(weight), np.zeros_like(weight)
        steps[key][...] += 1
        t = int(steps[key])
        rate, correction = self.lr / (1 - beta1**t), 1 / np.sqrt(1 - beta2**t)
        optimize.adam(
            rate, beta1, beta2, correction, self.eps, self.weight_decay, weight, gradient, means[key], squares[key]
        )


@contextmanager
def _in_place(array: Array) -> Iterator[Array]:
    """The array as kernels write it, contiguous and aligned: itself, or a copy that is copied back."""
    whole = np.require(array, requirements=("C", "A", "W"))
    yield whole
    if whole is not array:
        array[...] = whole


def _non_negative(name: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"{name} must be a number >= 0, got {value!r}")
    return float(value)


def _some(mapping: Mapping[str, Array]) -> str:
    keys = [repr(key) for key in list(mapping)[:3]]
    return ", ".join(keys) + (", ..." if len(mapping) > 3 else "") if keys else "no keys"
