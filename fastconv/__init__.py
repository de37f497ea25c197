"""Convolution and pooling kernels for CPUs, on NumPy arrays.

fastconv.functional holds the stateless operators, fastconv.layers what owns parameters, fastconv.runtime the knobs.
"""

__version__ = "0.1.0"

from fastconv import functional, geometry, runtime
from fastconv.functional import *  # noqa: F403
from fastconv.functional.explain import PlanExplanation, explain_plan
from fastconv.functional.planned import (
    PlannedConv,
    plan_conv1d,
    plan_conv2d,
    plan_conv3d,
    plan_conv_transpose1d,
    plan_conv_transpose2d,
    plan_conv_transpose3d,
)
from fastconv.geometry import (
    conv_output_size,
    conv_transpose_output_size,
    parameter_count,
    pool_output_size,
    receptive_field,
)
from fastconv.runtime import algorithm, get_num_threads, set_num_threads

__all__ = [
    "PlanExplanation",
    "PlannedConv",
    "algorithm",
    "conv_output_size",
    "conv_transpose_output_size",
    "explain_plan",
    "functional",
    "geometry",
    "get_num_threads",
    "parameter_count",
    "plan_conv1d",
    "plan_conv2d",
    "plan_conv3d",
    "plan_conv_transpose1d",
    "plan_conv_transpose2d",
    "plan_conv_transpose3d",
    "pool_output_size",
    "receptive_field",
    "runtime",
    "set_num_threads",
    *functional.__all__,
]
