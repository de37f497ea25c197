"""scipy.ndimage: filters on images of one channel, on one thread."""

from __future__ import annotations

from functools import partial

import numpy as np
import scipy
from scipy import ndimage

from ..task import Operands, Task
from . import Prepared, Unsupported


def start(threads: int) -> dict[str, str]:
    """It has no threads."""
    return {"scipy": scipy.__version__}


def prepare(task: Task, operands: Operands, data_format: str) -> Prepared:
    """Correlation with zeros around the image."""
    if not task.layer.filters_images or task.backward or operands.weight is None or operands.bias is not None:
        raise Unsupported("not a filter on images")
    images, taps = operands.x[:, 0], operands.weight[0]
    y = np.empty_like(images)
    call = partial(ndimage.correlate, images, taps, output=y, mode="constant")
    return Prepared(lambda: call, lambda _: (y[:, None],))
