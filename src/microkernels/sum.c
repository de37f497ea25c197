/* Sums of whole rows: partial results of several parts, pixels of a bias gradient, a residual. */
#ifndef REAL_BITS
#define FAMILY "sum.c"
#include "dtypes.h"
#else
#include "simd.h"

/* Four chains of additions: one would wait for itself. Their order depends on nothing but the number of rows. */
INLINE vec NAME(sum_column)(const real *src, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t n) {
  vec sum[4] = {{0}, {0}, {0}, {0}};
  ptrdiff_t i = 0;
  for (; i + 4 <= rows; i += 4) UNROLL for (int w = 0; w < 4; w++) sum[w] += NAME(load_some)(src + (i + w) * ld, n);
  for (; i < rows; i++) sum[0] += NAME(load_some)(src + i * ld, n);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static void NAME(sum_rows)(char *dst, const char *src, ptrdiff_t ld, ptrdiff_t rows, ptrdiff_t columns) {
  real *to = (real *)dst;
  const real *from = (const real *)src;
  ptrdiff_t j = 0;
  for (; j + VLEN <= columns; j += VLEN)
    NAME(store)(to + j, NAME(load)(to + j) + NAME(sum_column)(from + j, ld, rows, VLEN));
  const ptrdiff_t n = columns - j;
  if (n > 0) NAME(store_tail)(to + j, NAME(load_tail)(to + j, n) + NAME(sum_column)(from + j, ld, rows, n), n);
}

static void NAME(add_clamped)(char *dst, const char *a, const char *b, ptrdiff_t n, double lower, double upper) {
  const vec least = NAME(splat)((real)lower), most = NAME(splat)((real)upper);
  for (ptrdiff_t i = 0; i < n; i += VLEN) {
    const vec y = NAME(load_some)((const real *)a + i, n - i) + NAME(load_some)((const real *)b + i, n - i);
    NAME(store_some)((real *)dst + i, NAME(at_most)(NAME(at_least)(y, least), most), n - i);
  }
}

FILL(sum) {
  table->sum_rows = NAME(sum_rows);
  table->add_clamped = NAME(add_clamped);
}
#endif
