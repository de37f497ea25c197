"""Modules of PyTorch that call fastconv: classes that take a module's own class's place and are made of it.

`swap` gives a module the class ``(mixin, its class)``, of the same name, and nothing else: parameters, buffers, hooks
and every attribute stay what they are. Copies and pickles are made of the module's own class, which becomes the other
again in the copy. What a call brings that fastconv does not cover goes on to the module's own class.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from fastconv.backends.torch import packing, pooling
from fastconv.backends.torch.arrays import Tensor, is_channels_last
from fastconv.backends.torch.calls import is_plain, is_profiled, reason_against
from fastconv.backends.torch.convolution import convolution
from fastconv.backends.torch.linear import linear, planned_linear, reason_against_product
from fastconv.backends.torch.normalization import batch_norm
from fastconv.backends.torch.padding import Padded

NAMES: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # in the model that was optimized, for errors
LEFT: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()  # why calls of a module were PyTorch's own


class Swapped(nn.Module):
    """What all mixins share: how a module is copied and pickled.

    What they add to a module's class is called fastconv_..., so that it hides nothing of that class's own.
    """

    @classmethod
    def fastconv_members(cls, own: type[nn.Module]) -> dict[str, Any]:
        """What the class made of this and a module's own has of itself."""
        return {name: getattr(own, name) for name in ("__module__", "__qualname__", "__doc__")}

    def __reduce_ex__(self, protocol: Any) -> Any:
        make, arguments, *rest = super().__reduce_ex__(protocol)
        if not is_swapped(self):
            return make, arguments, *rest
        own = own_class(self)
        arguments = tuple(own if argument is type(self) else argument for argument in arguments)
        return remake, (vars(type(self))["fastconv_mixin"], make, arguments), *rest


def remake(mixin: type[Swapped], make: Callable[..., nn.Module], arguments: tuple[Any, ...]) -> nn.Module:
    """A copy of a swapped module, whose state is yet to be set."""
    module = make(*arguments)
    swap(module, mixin)
    return module


def _swapped_class(mixin: Any, own: Any) -> type[nn.Module]:
    """The class with the mixin before it; it goes by the name of the module's own, as torch.fx expects of leaves."""
    marks = {"fastconv_mixin": mixin, "fastconv_own_class": own}
    return type(own.__name__, (mixin, own), mixin.fastconv_members(own) | marks)


swapped_class: Callable[[Any, Any], type[nn.Module]] = cache(_swapped_class)


def swap(module: nn.Module, mixin: type[Swapped]) -> None:
    """Let a module call fastconv."""
    module.__class__ = swapped_class(mixin, type(module))


def unswap(module: nn.Module) -> None:
    """Give a swapped module its own class again.

    Raises
    ------
    RuntimeError
        If the module was given another class since.
    """
    if not is_swapped(module):
        raise RuntimeError(f"{label(module)} has got another class since it was optimized: undo that first")
    module.__class__ = own_class(module)


def is_swapped(module: Any) -> bool:
    """Whether `swap` made the class that a module has, and not one that this inherits from."""
    return "fastconv_own_class" in vars(type(module))


def own_class(module: nn.Module) -> Any:
    """The class that a module had before it was swapped."""
    return getattr(type(module), "fastconv_own_class", type(module))


class SwappedOperator(Swapped):
    """A module that is one operator."""

    def fastconv_forward(self, *inputs: Any) -> Any:
        """The result by fastconv, or by the module's own forward for what fastconv does not take."""
        reason = self.fastconv_reason_against(inputs[0])
        if torch.compiler.is_compiling():
            return self.fastconv_run(*inputs) if reason is None else super().forward(*inputs)
        if reason is None:
            try:
                return self.fastconv_run(*inputs)
            except (TypeError, ValueError) as error:
                LEFT[self] = reason = str(error)
            try:
                return super().forward(*inputs)
            except RuntimeError as error:
                raise RuntimeError(f"{label(self)}: {reason}") from error
        LEFT[self] = reason
        try:
            return super().forward(*inputs)
        except RuntimeError as error:  # whose class somebody may wait for
            error.add_note(f"in {label(self)}")
            raise

    @abstractmethod
    def fastconv_reason_against(self, input: Any) -> str | None:
        """Why a call is PyTorch's own to make; None if it is fastconv's."""

    @abstractmethod
    def fastconv_run(self, *inputs: Any) -> Any:
        """The result by fastconv."""


def label(module: Any) -> str:
    """A module as errors name it."""
    return f"{NAMES.get(module, 'a module')} ({type(module).__name__})"


def _reason_against_rank(x: Tensor, ndim: int) -> str | None:
    return None if x.ndim in (ndim + 1, ndim + 2) else f"the input has {x.ndim} dimensions"


def _numbers(value: Any, ndim: int) -> tuple[int, ...]:
    """One number an axis, as PyTorch's functions extend them."""
    if isinstance(value, (tuple, list)):
        return tuple(value) if len(value) == ndim else tuple(value) * ndim
    return (value,) * ndim


class SwappedConv(SwappedOperator):
    """A convolution or transposed convolution."""

    def forward(self, input: Any) -> Any:
        return self.fastconv_forward(input)

    def fastconv_reason_against(self, input: Any) -> str | None:
        return reason_against(input, self.weight, self.bias) or _reason_against_rank(input, self.weight.ndim - 2)

    def fastconv_run(self, *inputs: Any) -> Any:
        input, weight, bias = inputs[0], self.weight, self.bias
        x = input if input.ndim == weight.ndim else input.unsqueeze(0)
        geometry = self.fastconv_geometry(input, self.fastconv_is_channels_last(x), *inputs[1:])
        constant = not self.training and not (weight.requires_grad and torch.is_grad_enabled())
        y = convolution(x, weight, bias, *geometry, constant)
        return y if x is input else y.squeeze(0)

    def fastconv_padded(self, padded: Padded) -> Any:
        """The result of a batch that is padded with zeros; None if fastconv does not take it."""
        x = padded.x
        if self.fastconv_reason_against(x) is not None or x.ndim != self.weight.ndim:
            return None
        geometry = self.fastconv_geometry(x, self.fastconv_is_channels_last(x))
        try:
            pads = padded.beside(geometry[1])
            return convolution(x, self.weight, self.bias, geometry[0], pads, *geometry[2:], False)
        except (TypeError, ValueError):  # what does not fit is told by the call that pads
            return None

    def fastconv_is_channels_last(self, x: Tensor) -> bool:
        """Whether a call runs in channels_last: as PyTorch decides, if x or the weight is."""
        return is_channels_last(x) or is_channels_last(self.weight)

    def fastconv_geometry(self, input: Tensor, channels_last: bool) -> tuple[Any, ...]:
        """The call's geometry, as ops take it."""
        extra = (0,) * len(self.kernel_size)
        return (
            self.stride,
            self.fastconv_pads(),
            self.dilation,
            False,
            extra,
            self.groups,
            self.padding_mode,
            channels_last,
        )

    def fastconv_pads(self) -> tuple[int, ...]:
        if self.padding == "valid":
            return (0, 0) * len(self.kernel_size)
        if self.padding == "same":
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return tuple(pad for total in totals for pad in (total // 2, total - total // 2))
        return tuple(pad for pad in self.padding for _ in range(2))


class SwappedConvTranspose(SwappedConv):
    """A transposed convolution."""

    def forward(self, input: Any, output_size: Any = None) -> Any:
        return self.fastconv_forward(input, output_size)

    def fastconv_geometry(self, input: Tensor, channels_last: bool, output_size: Any = None) -> tuple[Any, ...]:
        ndim = len(self.kernel_size)
        extra = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, ndim, self.dilation
        )
        return self.stride, self.fastconv_pads(), self.dilation, True, tuple(extra), self.groups, "zeros", channels_last


class SwappedLinear(SwappedOperator):
    """A linear layer; what is compiled stays with the compiler, which has products of its own."""

    def forward(self, input: Any) -> Any:
        return super().forward(input) if torch.compiler.is_compiling() else self.fastconv_forward(input)

    def fastconv_reason_against(self, input: Any) -> str | None:
        return reason_against(input, self.weight, self.bias) or reason_against_product(input, self.weight)

    def fastconv_run(self, *inputs: Any) -> Any:
        tensors = inputs[0], self.weight, self.bias
        kept = not self.training and packing.is_kept_up(self.weight) and packing.is_kept_up(self.bias)
        return (planned_linear if kept and is_plain(*tensors) and not is_profiled() else linear)(*tensors)


class SwappedPool(SwappedOperator):
    """A pool of any kind."""

    @classmethod
    def fastconv_members(cls, own: type[nn.Module]) -> dict[str, Any]:
        return super().fastconv_members(own) | {"fastconv_pool": POOLS[covered_class(own)]}

    def forward(self, input: Any) -> Any:
        return self.fastconv_forward(input)

    def fastconv_reason_against(self, input: Any) -> str | None:
        return reason_against(input) or _reason_against_rank(input, self.fastconv_pool[1])

    def fastconv_run(self, *inputs: Any) -> Any:
        operator, ndim, window = self.fastconv_pool
        input = inputs[0]
        x = input if input.ndim == ndim + 2 else input.unsqueeze(0)
        arguments = *window(self, x, ndim), is_channels_last(x)
        if not isinstance(operator, pooling.MaxPool):
            y = operator.pool(x, *arguments)
            return y if x is input else y.squeeze(0)
        wanted = self.return_indices or (x.requires_grad and torch.is_grad_enabled())
        y, indices = operator.pool(x, *arguments, wanted)
        if x is not input:
            y, indices = y.squeeze(0), indices.squeeze(0) if wanted else indices
        return (y, indices) if self.return_indices else y


class SwappedBatchNorm(SwappedOperator):
    """A batch normalization, which in evaluation mode is PyTorch's or part of a fused convolution."""

    @classmethod
    def fastconv_members(cls, own: type[nn.Module]) -> dict[str, Any]:
        return super().fastconv_members(own) | {"fastconv_ranks": NORMS[covered_class(own)]}

    def forward(self, input: Any) -> Any:
        return self.fastconv_forward(input) if self.training else super().forward(input)

    def fastconv_reason_against(self, input: Any) -> str | None:
        reason = self.fastconv_reason_against_batch(input)
        if reason is None and input.ndim > 3 and is_channels_last(input):
            return "PyTorch's own is as fast in channels_last"
        return reason

    def fastconv_reason_against_batch(self, input: Any) -> str | None:
        """Why a batch is not normalized by fastconv, whatever its memory format."""
        reason = reason_against(input, self.weight, self.bias)
        if reason is not None:
            return reason
        if input.ndim not in self.fastconv_ranks:
            return f"the input has {input.ndim} dimensions"
        if torch.is_autocast_enabled("cpu"):
            return f"autocast to {torch.get_autocast_dtype('cpu')}"
        statistics = self.running_mean, self.running_var
        if (statistics[0] is None) != (statistics[1] is None):
            return "it has but one of its running statistics"
        if any(tensor is not None and tensor.dtype != input.dtype for tensor in statistics):
            return "its running statistics are of another dtype"
        return None if input.numel() > input.shape[1] else "a channel has one value"

    def fastconv_run(self, *inputs: Any) -> Any:
        return self.fastconv_normal(inputs[0], None, None)

    def fastconv_normal(self, x: Tensor, residual: Tensor | None, activation: str | None) -> Any:
        """activation(normal(x) + residual), with the running statistics moved."""
        tensors, last = (x, self.weight, self.bias, residual), x.ndim > 3 and is_channels_last(x)
        y, statistics = batch_norm(*tensors, activation, self.eps, last)
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if self.track_running_stats and self.running_mean is not None:
            with torch.no_grad():
                self.fastconv_follow(statistics.detach().to(x.dtype), x.numel() // x.shape[1])
        return y

    def fastconv_follow(self, statistics: Tensor, count: int) -> None:
        """Move the running statistics towards those of a batch of so many values a channel: without a momentum, to the
        mean of all batches."""
        share = self.momentum
        if share is None:
            if self.num_batches_tracked is None:
                return
            share = 1 / self.num_batches_tracked.to(statistics.dtype)
        self.running_mean.lerp_(statistics[0], share)
        self.running_var.lerp_(statistics[1] * (count / (count - 1)), share)


def _stride(module: Any, ndim: int) -> tuple[int, ...]:
    return _numbers(module.kernel_size if module.stride is None else module.stride, ndim)


def _max_window(module: Any, x: Tensor, ndim: int) -> tuple[Any, ...]:
    padding, dilation = _numbers(module.padding, ndim), _numbers(module.dilation, ndim)
    return _numbers(module.kernel_size, ndim), _stride(module, ndim), padding, dilation, module.ceil_mode


def _avg_window(module: Any, x: Tensor, ndim: int) -> tuple[Any, ...]:
    kernel, padding = _numbers(module.kernel_size, ndim), _numbers(module.padding, ndim)
    divisor = getattr(module, "divisor_override", None)  # there is none in 1-D
    return kernel, _stride(module, ndim), padding, module.ceil_mode, module.count_include_pad, divisor


def _lp_window(module: Any, x: Tensor, ndim: int) -> tuple[Any, ...]:
    return float(module.norm_type), _numbers(module.kernel_size, ndim), _stride(module, ndim), module.ceil_mode


def _adaptive_window(module: Any, x: Tensor, ndim: int) -> tuple[Any, ...]:
    sizes = zip(_numbers(module.output_size, ndim), x.shape[2:], strict=True)
    return (tuple(size if wanted is None else wanted for wanted, size in sizes),)


_KINDS = {
    "MaxPool": (pooling.max_pool, _max_window),
    "AvgPool": (pooling.avg_pool, _avg_window),
    "LPPool": (pooling.lp_pool, _lp_window),
    "AdaptiveMaxPool": (pooling.adaptive_max_pool, _adaptive_window),
    "AdaptiveAvgPool": (pooling.adaptive_avg_pool, _adaptive_window),
}
POOLS = {
    getattr(nn, f"{kind}{ndim}d"): (operator, ndim, window)
    for kind, (operator, window) in _KINDS.items()
    for ndim in (1, 2, 3)
}
NORMS = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}  # and the ranks of their inputs
MIXINS: dict[type[nn.Module], type[Swapped]] = {
    **{getattr(nn, f"Conv{ndim}d"): SwappedConv for ndim in (1, 2, 3)},
    **{getattr(nn, f"ConvTranspose{ndim}d"): SwappedConvTranspose for ndim in (1, 2, 3)},
    nn.Linear: SwappedLinear,
    **dict.fromkeys(POOLS, SwappedPool),
    **dict.fromkeys(NORMS, SwappedBatchNorm),
}


def _covered_class(own: Any) -> Any:
    """The class of PyTorch's that `own` is or inherits all of its computing from, if fastconv covers it."""
    if issubclass(own, LazyModuleMixin):  # which takes another class at its first call
        return None
    for base in own.__mro__:
        if base in MIXINS:
            computing = ("forward", "_conv_forward", "_output_padding", "_check_input_dim")
            return base if all(getattr(own, n, None) is getattr(base, n, None) for n in computing) else None
    return None


covered_class: Callable[[Any], Any] = cache(_covered_class)
