"""The layers of a network, made with what they share: layout, dtype, generator and initial values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastconv import init, layers


@dataclass(frozen=True)
class Kit:
    """Makes layers; the arguments of every method are those of the layer's class that come before the shared ones."""

    data_format: str
    dtype: DTypeLike
    rng: np.random.Generator
    initializer: init.Initializer | None

    def conv(self, *arguments: Any, **options: Any) -> layers.Conv2d:
        return layers.Conv2d(
            *arguments,
            **options,
            data_format=self.data_format,
            initializer=self.initializer,
            dtype=self.dtype,
            rng=self.rng,
        )

    def conv_transpose(self, *arguments: Any, **options: Any) -> layers.ConvTranspose2d:
        return layers.ConvTranspose2d(
            *arguments,
            **options,
            data_format=self.data_format,
            initializer=self.initializer,
            dtype=self.dtype,
            rng=self.rng,
        )

    def linear(self, *arguments: Any, **options: Any) -> layers.Linear:
        return layers.Linear(*arguments, **options, initializer=self.initializer, dtype=self.dtype, rng=self.rng)

    def batch_norm(self, *arguments: Any, **options: Any) -> layers.BatchNorm2d:
        return layers.BatchNorm2d(*arguments, **options, data_format=self.data_format, dtype=self.dtype)

    def local_response_norm(self, *arguments: Any, **options: Any) -> layers.LocalResponseNorm:
        return layers.LocalResponseNorm(*arguments, **options, data_format=self.data_format)

    def max_pool(self, *arguments: Any, **options: Any) -> layers.MaxPool2d:
        return layers.MaxPool2d(*arguments, **options, data_format=self.data_format)

    def avg_pool(self, *arguments: Any, **options: Any) -> layers.AvgPool2d:
        return layers.AvgPool2d(*arguments, **options, data_format=self.data_format)

    def adaptive_avg_pool(self, *arguments: Any) -> layers.AdaptiveAvgPool2d:
        return layers.AdaptiveAvgPool2d(*arguments, data_format=self.data_format)

    def global_avg_pool(self) -> layers.GlobalAvgPool:
        return layers.GlobalAvgPool(data_format=self.data_format)

    def flatten(self) -> layers.Flatten:
        return layers.Flatten(data_format=self.data_format)

    def dropout(self, p: float) -> layers.Dropout:
        return layers.Dropout(p, rng=self.rng)

    def parallel(self, branches: dict[str, layers.Layer]) -> layers.Parallel:
        return layers.Parallel(branches, data_format=self.data_format)
