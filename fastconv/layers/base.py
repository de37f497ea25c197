"""What every layer is: parameters, buffers and inner layers by name, gradients, and a stack of what forward saved."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from textwrap import indent
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastconv import functional as F

Array = NDArray[Any]

_FUSING = ("for_inference", "followed_by", "as_affine", "as_activation", "with_residual")


class Layer(ABC):
    """A differentiable function with parameters; subclass it by writing `forward` and `backward` side by side.

    ``forward`` computes y from x and, in training mode, keeps with `save` what ``backward`` will need; ``backward``
    takes that back with `restore`, adds to the gradients of the parameters with `accumulate`, and returns the gradient
    of x. What is saved is a stack, so a layer that is used twice is gone through backwards twice, last use first. In
    evaluation mode nothing is saved, so that many threads may share a model, and ``backward`` raises.

    Parameters (trained) and buffers (not trained, but part of the state) are plain arrays, registered with
    `add_parameter` and `add_buffer`; a layer assigned to an attribute is registered by itself. Assigning an array to a
    parameter copies it into the parameter, so that an optimizer's view of it stays valid.

    Example: a layer with one parameter, y = scale * x::

        class Scale(Layer):
            scale: Array

            def __init__(self, channels):
                self.add_parameter("scale", np.ones(channels, np.float32))

            def forward(self, x):
                self.save(x)
                return self.scale * x

            def backward(self, grad_y):
                (x,) = self.restore()
                self.accumulate(scale=(grad_y * x).sum(0))
                return self.scale * grad_y
    """

    training: bool
    _pack: bool
    _parameters: list[str]
    _buffers: list[str]
    _layers: dict[str, Layer]
    _gradients: dict[str, Array]
    _saved: list[tuple[Any, ...]]

    def __init_subclass__(cls) -> None:
        # What a class says of fusing goes with its forward: one with another forward says it anew, or is not fused.
        if "forward" in vars(cls):
            for name in _FUSING:
                if name not in vars(cls):
                    setattr(cls, name, getattr(Layer, name))

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Here and not in __init__, so that a subclass need not call it.
        layer = super().__new__(cls)
        layer.__dict__.update(
            training=True, _pack=True, _parameters=[], _buffers=[], _layers={}, _gradients={}, _saved=[]
        )
        return layer

    # What a layer is written with.

    @abstractmethod
    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Return y from x; calling the layer does the same."""

    @abstractmethod
    def backward(self, *grad_y: Any, **options: Any) -> Any:
        """Return the gradient of the x of the last forward not yet gone back through, and add to `gradients`.

        Raises
        ------
        RuntimeError
            If there was no such forward in training mode.
        """

    def backward_parameters(self, grad_y: Array) -> None:
        """Do as `backward`, without the gradient of x: for a network's first layer, whose x is data."""
        self.backward(grad_y)

    def save(self, *values: Any) -> None:
        """Put values on the stack if in training mode."""
        if self.training:
            self._saved.append(values)

    def restore(self) -> tuple[Any, ...]:
        """Take the last saved values off the stack."""
        if not self._saved:
            why = "every forward was gone back through already" if self.training else "it is in evaluation mode"
            raise RuntimeError(f"backward of {type(self).__name__} needs a forward in training mode before it: {why}")
        return self._saved.pop()

    def accumulate(self, **gradients: Array | None) -> None:
        """Add to the gradients of the parameters named; None adds nothing."""
        for name, gradient in gradients.items():
            if gradient is None:
                continue
            if name in self._gradients:
                self._gradients[name] += gradient
            else:
                self._gradients[name] = gradient

    def add_parameter(self, name: str, value: Array | None) -> None:
        """Register an array that is trained, from now on the layer's own; None is one that this layer does without."""
        self._register(name, value)
        self._parameters.append(name)

    def add_buffer(self, name: str, value: Array | None) -> None:
        """Register an array that is not trained but belongs to the state."""
        self._register(name, value)
        self._buffers.append(name)

    def add_layer(self, name: str, layer: Layer) -> None:
        """Register an inner layer under a name that need not be an identifier."""
        taken = hasattr(type(self), name) or (name in self.__dict__ and name not in self._layers)
        if not name or "." in name or taken:
            raise ValueError(f"a layer of {type(self).__name__} cannot be named {name!r}: empty, dotted or taken")
        if not isinstance(layer, Layer):
            raise TypeError(f"{name!r} must be a Layer, got {type(layer).__name__}")
        setattr(self, name, layer)

    # How a layer is fused, see `fastconv.layers.fuse`.

    def for_inference(self) -> list[Layer]:
        """Return layers, of which none is this one or has its arrays, that do the same in evaluation mode in turn."""
        return [copy.deepcopy(self)]

    def followed_by(self, layer: Layer) -> Layer | None:
        """Return one layer that does what this one and `layer` do in turn; None if there is none."""
        return None

    def as_affine(self, rank: int, data_format: str) -> tuple[Array, Array] | None:
        """Return (scale, shift) in float64 if y = scale * x + shift, channel by channel, for x of this rank."""
        return None

    def as_activation(self) -> str | None:
        """Return the name of the activation that this layer is, if a convolution may end with it."""
        return None

    def with_residual(self, activation: str | None) -> Layer | None:
        """Return a layer whose y is activation(this one's y + residual), called with ``residual=``; None if there is
        none."""
        return None

    # What a layer is used with.

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.forward(*inputs, **options)

    def named_layers(self) -> Iterator[tuple[str, Layer]]:
        """Yield (key, layer) of this layer, whose key is "", and of all within; one found twice only once."""
        seen: set[int] = set()
        for prefix, layer in self._walk():
            if id(layer) not in seen:
                seen.add(id(layer))
                yield prefix.removesuffix("."), layer

    def named_parameters(self) -> Iterator[tuple[str, Array]]:
        """Yield (key, array) of every parameter, in PyTorch's order and with PyTorch's keys."""
        for key, layer in self.named_layers():
            yield from layer._arrays(layer._parameters, f"{key}." if key else "")

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """Yield (key, array) of every buffer, such as the running statistics of a batch normalization."""
        for key, layer in self.named_layers():
            yield from layer._arrays(layer._buffers, f"{key}." if key else "")

    def parameters(self) -> dict[str, Array]:
        """Return the parameters by key; the arrays are the live ones, which an optimizer changes in place."""
        return dict(self.named_parameters())

    def gradients(self) -> dict[str, Array]:
        """Return, by the key of its parameter, every gradient that backward has left since the last `zero_grad`."""
        return {
            f"{key}.{name}" if key else name: layer._gradients[name]
            for key, layer in self.named_layers()
            for name in layer._parameters
            if name in layer._gradients
        }

    def zero_grad(self) -> None:
        """Forget the gradients, so that the next backward starts from zero."""
        for _, layer in self.named_layers():
            layer._gradients.clear()

    def parameter_count(self) -> int:
        """Return how many numbers are trained."""
        return sum(parameter.size for _, parameter in self.named_parameters())

    def train(self, mode: bool = True) -> Self:
        """Enter training mode: forward saves what backward needs, and the parameters may be changed.

        False enters evaluation mode, as `eval` does.
        """
        return self._enter_all(mode, pack=True)

    def eval(self, pack: bool = True) -> Self:
        """Enter evaluation mode: nothing is saved, and the parameters are read-only, so that changing them raises.

        Convolutions and linear layers then keep their weights packed, from the first forward of each of the last few
        shapes of x on, until `train` or `load_state_dict`; with pack=False they save that memory.
        """
        return self._enter_all(False, pack)

    def state_dict(self) -> dict[str, Array]:
        """Return every parameter and buffer by PyTorch's key; the arrays are the live ones, not copies."""
        return {
            key: array
            for prefix, layer in self._walk()
            for key, array in layer._arrays(layer._parameters + layer._buffers, prefix)
        }

    def load_state_dict(self, state: Mapping[str, ArrayLike], strict: bool = True) -> tuple[list[str], list[str]]:
        """Copy the arrays of a state into this layer's, in either mode; PyTorch's own state_dict will do.

        Parameters
        ----------
        state
            Arrays, or CPU tensors, by key, with the shapes that `state_dict` shows; they are cast to this layer's
            dtype.
        strict
            Whether keys that are missing or unexpected are an error. Default True.

        Returns
        -------
        (missing, unexpected)
            The keys that this layer has and state has not, and the other way round.

        Raises
        ------
        ValueError
            If keys do not agree and strict, or a shape is not this layer's. Nothing has been changed then.
        """
        own = self.state_dict()
        missing, unexpected = [key for key in own if key not in state], [key for key in state if key not in own]
        if strict and (missing or unexpected):
            raise ValueError(f"state does not fit {type(self).__name__}: missing {missing}, unexpected {unexpected}")
        new = {key: np.asarray(state[key]) for key in own if key in state}
        for key, array in new.items():
            if array.shape != own[key].shape:
                raise ValueError(f"{key!r} must have shape {own[key].shape}, got {array.shape}")
        modes = {layer: layer.training for _, layer in self.named_layers()}
        for layer in modes:
            layer._unlock(True)
        for key, array in new.items():
            np.copyto(own[key], array, casting="same_kind")
        for layer, training in modes.items():
            layer._unlock(training)
        return missing, unexpected

    def extra_repr(self) -> str:
        """Return what the repr shows between the parentheses."""
        return ""

    def __repr__(self) -> str:
        inner = "\n".join(f"({name}): {layer!r}" for name, layer in self._layers.items())
        if not inner:
            return f"{type(self).__name__}({self.extra_repr()})"
        head = self.extra_repr()
        return f"{type(self).__name__}({head}\n{indent(inner, '  ')}\n)"

    # How it is kept.

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._parameters or name in self._buffers:
            self._assign(name, value)
            return
        if isinstance(value, Layer):
            self._layers[name] = value
        else:
            self._layers.pop(name, None)
        object.__setattr__(self, name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copying and unpickling lose an array's read-only flag.
        self.__dict__.update(state)
        self._unlock(self.training)

    def _register(self, name: str, value: Array | None) -> None:
        if name in self.__dict__ or hasattr(type(self), name):
            raise ValueError(f"{type(self).__name__} has a {name!r} already")
        self.__dict__[name] = None if value is None else np.require(value, requirements=["C", "O", "W"])

    def _assign(self, name: str, value: Any) -> None:
        array = self.__dict__[name]
        if value is array:
            return
        if array is None or np.shape(value) != array.shape:
            shape = "None" if array is None else f"of shape {array.shape}"
            raise ValueError(f"{name} is {shape} and cannot become an array of shape {np.shape(value)}")
        np.copyto(array, value, casting="same_kind")

    def _walk(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield (prefix of the keys, layer), this layer first, then all within in order, repeated ones repeatedly."""
        yield prefix, self
        for name, layer in self._layers.items():
            yield from layer._walk(f"{prefix}{name}.")

    def _arrays(self, names: list[str], prefix: str) -> Iterator[tuple[str, Array]]:
        for name in names:
            if self.__dict__[name] is not None:
                yield prefix + name, self.__dict__[name]

    def _enter_all(self, training: bool, pack: bool) -> Self:
        for _, layer in self.named_layers():
            layer._enter(training, pack)
        return self

    def _enter(self, training: bool, pack: bool) -> None:
        self.training = training
        self._pack = pack
        self._saved.clear()
        self._unlock(training)

    def _unlock(self, writeable: bool) -> None:
        """Let this layer's own arrays be changed or not: what is computed from them is made and dropped here only."""
        for _, array in self._arrays(self._parameters + self._buffers, ""):
            array.flags.writeable = writeable


class SpatialLayer(Layer):
    """A layer that exists for 1, 2 and 3 spatial axes, the classes for which differ in `ndim` alone.

    ``class Conv2d(ConvNd, ndim=2)`` takes the operators `function` and `function_backward` by name: conv2d and
    conv2d_backward, for `ConvNd.operator` is "conv{}d".
    """

    ndim: ClassVar[int]
    operator: ClassVar[str]
    function: ClassVar[Callable[..., Any]]
    function_backward: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls, ndim: int | None = None) -> None:
        super().__init_subclass__()
        if ndim is not None:
            cls.ndim = ndim
            cls.function = staticmethod(getattr(F, cls.operator.format(ndim)))
            cls.function_backward = staticmethod(getattr(F, f"{cls.operator.format(ndim)}_backward"))
