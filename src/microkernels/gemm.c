/* Register tiles: sums of products over a list of panels, and of outer products. */
#ifndef REAL_BITS
#define FAMILY "gemm.c"
#include "dtypes.h"
#else
#include "simd.h"

#include "gemm.h"
#include "gemm_pairs.h"

FILL(gemm) {
  table->vlen = VLEN;
  table->kr = 1;
  table->storage_bytes = table->accumulate_bytes = sizeof(real);
  table->mr = GEMM_MR;
  table->nr = GEMM_NV * VLEN;
  table->pairs_mr = PAIRS_MR;
  table->pairs_nr = PAIRS_NV * VLEN;
  table->gemm = NAME(gemm);
  table->gemm_lines = NAME(gemm_lines);
  table->gemm_rows = NAME(gemm_rows);
  table->stream_end = NAME(gemm_stream_end);
  table->gemm_pairs = NAME(gemm_pairs);
}
#endif
