from typing import Any

from numpy.typing import NDArray

def copy_parts(parts: list[NDArray[Any]], whole: NDArray[Any], rows: int, apart: bool) -> None: ...
