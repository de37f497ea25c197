import numpy as np
from numpy.typing import NDArray

from fastconv.geometry import ConvGeometry

class DepthwiseLines:
    def __init__(self, geometry: ConvGeometry, dtype: np.dtype, padding_mode: str, backward: bool) -> None: ...
    @property
    def form(self) -> str: ...
    def __call__(
        self,
        source: NDArray,
        weight: NDArray,
        bias: NDArray | None,
        destination: NDArray,
        lower: float = ...,
        upper: float = ...,
        activation: int = -1,
        alpha: float = 0,
    ) -> None: ...

class DepthwiseWeight:
    def __init__(self, geometry: ConvGeometry, dtype: np.dtype, padding_mode: str) -> None: ...
    @property
    def form(self) -> str: ...
    def __call__(self, grad_y: NDArray, x: NDArray, weight: NDArray | None, bias: NDArray | None) -> None: ...
