/* Every microkernel once per dtype, and the table that names them. isa/<name>.c defines ISA and includes this file. */
#include <math.h>

#include "../isa/table.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define STRING_(a) #a
#define STRING(a) STRING_(a)

#define real float
#define REAL_BITS 32
#define NAME(x) JOIN(x, _f32)
#include "kernels.h"
#undef real
#undef REAL_BITS
#undef NAME

#define real double
#define REAL_BITS 64
#define NAME(x) JOIN(x, _f64)
#include "kernels.h"
#undef real
#undef REAL_BITS
#undef NAME

#define KERNELS(dtype, real)                           \
  {                                                    \
      .isa = STRING(ISA),                              \
      .mr = GEMM_MR,                                   \
      .nr = GEMM_NV * (int)(VEC_BYTES / sizeof(real)), \
      .vlen = (int)(VEC_BYTES / sizeof(real)),         \
      .kr = 1,                                         \
      .storage_bytes = sizeof(real),                   \
      .accumulate_bytes = sizeof(real),                \
      .gemm = gemm_##dtype,                            \
      .pairs_mr = PAIRS_MR,                            \
      .pairs_nr = PAIRS_NV * VEC_BYTES / sizeof(real), \
      .gemm_pairs = gemm_pairs_##dtype,                \
      .pack_runs = pack_runs_##dtype,                  \
      .copy_matrix = copy_matrix_##dtype,              \
      .pack_matrix = pack_matrix_##dtype,              \
      .pack_pieces = pack_pieces_##dtype,              \
      .sum_rows = sum_rows_##dtype,                    \
      .activate = activate_##dtype,                    \
      .activate_backward = activate_backward_##dtype,  \
      .masked = masked_##dtype,                        \
      .softmax = softmax_##dtype,                      \
      .softmax_backward = softmax_backward_##dtype,    \
      .log_sum_exp = log_sum_exp_##dtype,              \
      .moments = moments_##dtype,                      \
      .products = products_##dtype,                    \
      .affine = affine_##dtype,                        \
      .probe_fma = probe_fma_##dtype,                  \
      .probe_copy = probe_copy_##dtype,                \
      .pool = pool_##dtype,                            \
      .pool_scratch = pool_scratch_##dtype,            \
      .pool_route = pool_route_##dtype,                \
      .times_power = times_power_##dtype,              \
      .locate_points = locate_points_##dtype,          \
      .sample_planes = sample_planes_##dtype,          \
      .sample_pixels = sample_pixels_##dtype,          \
      .scatter_pixels = scatter_pixels_##dtype,        \
      .point_gradients = point_gradients_##dtype,      \
  }

extern const fastconv_kernels JOIN(fastconv_, ISA)[FASTCONV_DTYPES];
int JOIN(JOIN(fastconv_, ISA), _supported)(void);

int JOIN(JOIN(fastconv_, ISA), _supported)(void) { return ISA_SUPPORTED; }

const fastconv_kernels JOIN(fastconv_, ISA)[FASTCONV_DTYPES] = {KERNELS(f32, float), KERNELS(f64, double)};
