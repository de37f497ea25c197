"""Normalised arguments: shapes and parameters in, a frozen geometry or a clear error out.

    arguments.py  ints, tuples, paddings as users write them -> tuples of plain integers
    arrays.py     what an array must be to be read or written
    sizes.py      output sizes, receptive fields, parameter counts
    conv.py       ConvGeometry of a convolution and of a transposed one
    pool.py       PoolGeometry of pools, unfold and fold; AdaptivePoolGeometry

Every shape error of the package is raised here, before anything is allocated.
"""

from fastconv.geometry.arguments import (
    DATA_FORMATS,
    INT64_MAX,
    PADDING_MODES,
    as_bool,
    as_float,
    as_int,
    as_padding,
    as_shape,
    as_tuple,
    check_choice,
    check_divisor_override,
    check_int64,
    check_padding_mode,
    is_channels_last,
    is_int,
)
from fastconv.geometry.arrays import check_array, check_out, check_same_dtype
from fastconv.geometry.conv import (
    ConvGeometry,
    activation_shape,
    check_bias,
    conv_geometry,
    conv_transpose_geometry,
    deform_conv_geometry,
    is_batched,
    split_activation,
)
from fastconv.geometry.pool import (
    AdaptivePoolGeometry,
    PoolGeometry,
    adaptive_pool_geometry,
    fold_geometry,
    pool_geometry,
    unfold_geometry,
    unpool_geometry,
)
from fastconv.geometry.sizes import (
    ReceptiveField,
    conv_output_size,
    conv_transpose_output_size,
    parameter_count,
    pool_output_size,
    receptive_field,
)

__all__ = [
    "DATA_FORMATS",
    "INT64_MAX",
    "PADDING_MODES",
    "AdaptivePoolGeometry",
    "ConvGeometry",
    "PoolGeometry",
    "ReceptiveField",
    "activation_shape",
    "adaptive_pool_geometry",
    "as_bool",
    "as_float",
    "as_int",
    "as_padding",
    "as_shape",
    "as_tuple",
    "check_array",
    "check_bias",
    "check_choice",
    "check_divisor_override",
    "check_int64",
    "check_out",
    "check_padding_mode",
    "check_same_dtype",
    "conv_geometry",
    "conv_output_size",
    "conv_transpose_geometry",
    "conv_transpose_output_size",
    "deform_conv_geometry",
    "fold_geometry",
    "is_batched",
    "is_channels_last",
    "is_int",
    "parameter_count",
    "pool_geometry",
    "pool_output_size",
    "receptive_field",
    "split_activation",
    "unfold_geometry",
    "unpool_geometry",
]
