"""One valid call of every public operator: what is promised of all of them is tested over this table."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import numpy as np
from cases import laid_out, values

import fastconv.functional as ff

Arguments = dict[str, Any]

SMALL = {1: (9,), 2: (7, 6), 3: (5, 6, 5)}
LARGE = {1: (9000,), 2: (90, 95), 3: (20, 21, 22)}


class Calls:
    """Arguments of a call by operator, forward calls first; a backward's follow from its forward's result."""

    def __init__(
        self, layout: str, dtype: str, sizes: dict[int, tuple[int, ...]], batch: int, channels: int, only: str | None
    ) -> None:
        self.layout, self.dtype, self.batch, self.channels = layout, dtype, batch, channels
        self.only = only and only.removesuffix("_backward")
        self.calls: dict[str, Arguments] = {}
        for ndim, size in sizes.items():
            if only is None or f"{ndim}d" in only:
                self.of_rank(ndim, size)
        if only is None or not self.calls:
            self.without_rank(sizes[2])

    def draw(self, *shape: int, seed: int = 0) -> np.ndarray:
        return values(shape, seed).astype(self.dtype)

    def activation(self, channels: int, size: tuple[int, ...], seed: int = 0) -> np.ndarray:
        return laid_out(values((self.batch, channels, *size), seed), self.layout, self.dtype)

    def wanted(self, name: str) -> bool:
        return self.only in (None, name)

    def add(self, name: str, **arguments: Any) -> None:
        """The operator and its backward, if there is one."""
        if not self.wanted(name):
            return
        if "data_format" in inspect.signature(getattr(ff, name)).parameters:
            arguments["data_format"] = self.layout
        self.calls[name] = arguments
        backward = name + "_backward"
        if hasattr(ff, backward):
            self.calls[backward] = self.backward(name, backward, arguments)

    def backward(self, name: str, backward: str, arguments: Arguments) -> Arguments:
        function, result = getattr(ff, name), getattr(ff, name)(**arguments)
        y = result[0] if isinstance(result, tuple) else result
        known = arguments | {"y": y, "mask": result[1] if name == "dropout" else arguments.get("mask")}
        if np.ndim(y):
            known["grad_y"] = self.draw(*y.shape, seed=7)
        if "x" in arguments:
            known["x_shape"] = arguments["x"].shape
        if "return_indices" in inspect.signature(function).parameters:
            known["indices"] = function(**arguments | {"return_indices": True})[1]
        parameters = inspect.signature(getattr(ff, backward)).parameters
        return {parameter: known[parameter] for parameter in parameters if known.get(parameter) is not None}

    def of_rank(self, ndim: int, size: tuple[int, ...]) -> None:
        c, x, kernel = self.channels, self.activation(self.channels, size), (3, 2, 3)[:ndim]
        bias = self.draw(3 * c, seed=2)
        conv = {"stride": 2, "padding": 1, "groups": 2}
        self.add(f"conv{ndim}d", x=x, weight=self.draw(3 * c, c // 2, *kernel, seed=1), bias=bias, **conv)
        weight = self.draw(c, 3 * c // 2, *kernel, seed=1)
        self.add(f"conv_transpose{ndim}d", x=x, weight=weight, bias=bias, output_padding=1, **conv)
        window = {"kernel_size": kernel, "stride": 2}
        self.add(f"max_pool{ndim}d", x=x, padding=1, ceil_mode=True, **window)
        self.add(f"avg_pool{ndim}d", x=x, padding=1, count_include_pad=False, **window)
        self.add(f"lp_pool{ndim}d", x=np.abs(x), norm_type=2.0, **window)
        if self.wanted(f"max_unpool{ndim}d"):
            pooled, indices = getattr(ff, f"max_pool{ndim}d")(x, 2, return_indices=True, data_format=self.layout)
            self.add(f"max_unpool{ndim}d", x=pooled, indices=indices, kernel_size=2, output_size=size)
        self.add(f"adaptive_avg_pool{ndim}d", x=x, output_size=(4, 3, 2)[:ndim])
        self.add(f"adaptive_max_pool{ndim}d", x=x, output_size=(4, 3, 2)[:ndim])

    def without_rank(self, size: tuple[int, ...]) -> None:
        c, x = self.channels, self.activation(self.channels, size)
        features = {name: np.abs(self.draw(c, seed=i)) for i, name in enumerate(("weight", "running_var"))}
        features |= {name: self.draw(c, seed=i) for i, name in enumerate(("bias", "running_mean"))}
        self.add("batch_norm", x=x, training=False, **features)
        self.add("add", x=x, residual=self.activation(c, size, 1), activation="tanh")
        self.add("local_response_norm", x=x, size=3)
        self.add("layer_norm", x=x, normalized_shape=x.shape[2:], weight=self.draw(*x.shape[2:]), bias=None)
        self.add("concatenate", arrays=[x, self.activation(c, size, 1)], axis=1)
        self.add("to_channels_last", x=x)
        self.add("to_channels_first", x=x)
        self.add("split", x=x, sizes=(1, x.shape[1] - 1), axis=1)
        self.add("dropout", x=x, p=0.3, rng=np.random.default_rng(0))
        for name in ("relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "silu", "hardswish"):
            self.add(name, x=x)
        for name in ("softmax", "log_softmax"):
            self.add(name, x=x, axis=1)
        rows = self.batch and x.size // self.batch // c
        self.add("linear", x=self.draw(self.batch, rows, c), weight=self.draw(3 * c, c), bias=self.draw(3 * c))
        target = np.arange(self.batch * rows, dtype=np.int64) % c
        self.add("cross_entropy", logits=self.draw(self.batch * rows, c), target=target)
        self.add("mse_loss", x=x, target=self.activation(c, size, seed=1))
        self.add("pad", x=x, pads=((1, 2), (3, 0)), mode="reflect")
        for name in ("global_avg_pool", "global_max_pool"):
            self.add(name, x=x)
        self.add("unfold", x=x, kernel_size=(3, 2), padding=1, stride=2)
        if self.wanted("fold"):
            columns = ff.unfold(x, (3, 2), padding=1, stride=2, data_format=self.layout)
            self.add("fold", x=columns, output_size=size, kernel_size=(3, 2), padding=1, stride=2)
        self.add(
            "deform_conv2d",
            x=x,
            offset=self.activation(2 * 9 * 2, size, seed=3),
            weight=self.draw(2 * c, c // 2, 3, 3, seed=1),
            bias=self.draw(2 * c, seed=2),
            padding=1,
            mask=self.activation(2 * 9, size, seed=4),
        )


def calls(
    layout: str = "channels_first",
    dtype: str = "float32",
    sizes: dict[int, tuple[int, ...]] = SMALL,
    batch: int = 2,
    channels: int = 4,
    only: str | None = None,
) -> dict[str, Arguments]:
    """Arguments of every operator, by name; of fresh arrays and generators. With `only`, of one and its backward."""
    return Calls(layout, dtype, sizes, batch, channels, only).calls


def run(module: ModuleType, name: str, arguments: Arguments) -> tuple[Any, ...]:
    """Results of an operator of `fastconv.functional` or of the oracle, as a tuple of those that were asked for."""
    results = getattr(module, name)(**arguments)
    return tuple(r for r in (results if isinstance(results, tuple) else (results,)) if r is not None)
