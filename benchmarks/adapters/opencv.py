"""OpenCV: filters on an image of one channel."""

from __future__ import annotations

from functools import partial

import cv2

from fastconv.kernels.memory import empty

from ..task import Operands, Task
from . import Prepared, Unsupported


def start(threads: int) -> dict[str, str]:
    """Use so many threads."""
    cv2.setNumThreads(threads)
    return {"opencv": cv2.__version__}


def prepare(task: Task, operands: Operands, data_format: str) -> Prepared:
    """cv2.filter2D, a correlation, with zeros around the image."""
    if not task.layer.filters_images or task.backward or operands.weight is None or operands.bias is not None:
        raise Unsupported("not a filter on images")
    if task.layer.batch != 1:
        raise Unsupported("several images")
    image, taps = operands.x[0, 0], operands.weight[0, 0]
    y = empty(image.shape, image.dtype)
    call = partial(cv2.filter2D, image, -1, taps, dst=y, borderType=cv2.BORDER_CONSTANT)
    return Prepared(lambda: call, lambda _: (y[None, None],))
