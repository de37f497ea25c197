/* What this core can do at most, measured by the same vectors as everything else: multiply-adds and copies. */
#ifndef REAL_BITS
#define FAMILY "probe.c"
#include "dtypes.h"
#else
#include "simd.h"

/* `steps` steps of 12 independent multiply-adds of whole vectors, no memory; returns the floating-point operations. */
static double NAME(probe_fma)(ptrdiff_t steps) {
  vec sum[12];
  UNROLL for (int i = 0; i < 12; i++) sum[i] = NAME(splat)((real)i);
  const vec start = NAME(splat)((real)1), shrink = NAME(splat)((real)0.5);
  vec x = start;
  for (ptrdiff_t k = 0; k < steps; k++) {
    UNROLL for (int i = 0; i < 12; i++) {
      sum[i] = sum[i] * shrink + x;
      OPAQUE(sum[i]); /* else the compiler finds the one that stays as it is, 2 = 2 / 2 + 1, and leaves it out */
    }
  }
  vec all = sum[0];
  UNROLL for (int i = 1; i < 12; i++) all += sum[i];
  volatile real keep = NAME(sum_lanes)(all);
  (void)keep;
  return 2.0 * 12 * VLEN * (double)steps;
}

/* dst[0 .. n) = src[0 .. n), whole vectors. */
static void NAME(probe_copy)(char *dst, const char *src, ptrdiff_t n) {
  real *to = (real *)dst;
  const real *from = (const real *)src;
  for (ptrdiff_t i = 0; i + 4 * VLEN <= n; i += 4 * VLEN) {
    vec v[4];
    UNROLL for (int j = 0; j < 4; j++) v[j] = NAME(load)(from + i + j * VLEN);
    UNROLL for (int j = 0; j < 4; j++) NAME(store)(to + i + j * VLEN, v[j]);
    __asm__("" : "+r"(to)); /* else the compiler calls memcpy, whose stores are not ours */
  }
}

/* The same by stores around the caches; dst is aligned to vectors. */
static void NAME(probe_stream)(char *dst, const char *src, ptrdiff_t n) {
  vec *to = (vec *)dst;
  const real *from = (const real *)src;
  for (ptrdiff_t i = 0; i + 4 * VLEN <= n; i += 4 * VLEN, to += 4) {
    vec v[4];
    UNROLL for (int j = 0; j < 4; j++) v[j] = NAME(load)(from + i + j * VLEN);
    UNROLL for (int j = 0; j < 4; j++) STREAM(to + j, v[j]);
  }
  STREAM_END();
}

FILL(probe) {
  table->probe_fma = NAME(probe_fma);
  table->probe_copy = NAME(probe_copy);
  table->probe_stream = NAME(probe_stream);
}
#endif
