/* Depthwise convolution along lines (see table.h), for both layouts and all three passes. */
#ifndef REAL_BITS
#define FAMILY "depthwise.c"
#include "dtypes.h"
#else
#include "simd.h"

#define LINE_TAPS 4 /* taps in registers at a time */

#define AT(p, bytes) ((const real *)((const char *)(p) + (bytes)))
#define AT_MUTABLE(p, bytes) ((real *)((char *)(p) + (bytes)))

INLINE vec NAME(load_lanes)(const real *p, const int masked, ptrdiff_t n) {
  return masked ? NAME(load_tail)(p, n) : NAME(load)(p);
}

/* Which of `count` positions from `position` on, `apart` apart, are within first .. end: bit i for the i-th. */
INLINE uint32_t NAME(positions_within)(ptrdiff_t position, ptrdiff_t apart, const fastconv_tap_run *run, int count) {
  ptrdiff_t low = run->first - position, high = run->end - position;
  if (apart > 1) {
    low = low > 0 ? (low + apart - 1) / apart : 0;
    high = high > 0 ? (high + apart - 1) / apart : 0;
  }
  low = low < 0 ? 0 : low > count ? count : low;
  high = high < low ? low : high > count ? count : high;
  return (uint32_t)(((uint64_t)1 << high) - ((uint64_t)1 << low));
}

#include "depthwise_lines.h"
#include "depthwise_weight.h"
#include "depthwise_windows.h"
#include "depthwise_windows_spread.h"
#include "depthwise_windows_weight.h"

/* Whole vectors of each way; returns how many elements these are. */
INLINE ptrdiff_t NAME(interleave_vectors)(const int ways, real *to, const real *from, ptrdiff_t ld, ptrdiff_t each) {
  ptrdiff_t i = 0;
  for (; i + VLEN <= each; i += VLEN) {
    vec v[4];
    UNROLL for (int k = 0; k < ways; k++) v[k] = NAME(load)(from + k * ld + i);
    NAME(join)(ways, to + i * ways, v);
  }
  return i;
}

static void NAME(interleave)(char *dst, const char *src, ptrdiff_t ld, ptrdiff_t ways, ptrdiff_t total) {
  real *to = (real *)dst;
  const real *from = (const real *)src;
  const ptrdiff_t each = total / ways;
  ptrdiff_t i = 0;
  if (ways == 2) i = NAME(interleave_vectors)(2, to, from, ld, each);
  if (ways == 3) i = NAME(interleave_vectors)(3, to, from, ld, each);
  if (ways == 4) i = NAME(interleave_vectors)(4, to, from, ld, each);
  for (; i < each; i++)
    for (ptrdiff_t j = 0; j < ways; j++) to[i * ways + j] = from[j * ld + i];
  for (ptrdiff_t j = 0; j < total - each * ways; j++) to[each * ways + j] = from[j * ld + each];
}

static void NAME(sum_neighbours)(char *dst, const char *src, ptrdiff_t ways, ptrdiff_t count, double lower,
                                 double upper) {
  real *to = (real *)dst;
  const real *from = (const real *)src;
  const real low = (real)lower, high = (real)upper;
  for (ptrdiff_t i = 0; i < count; i++) {
    real sum = from[i * ways];
    for (ptrdiff_t j = 1; j < ways; j++) sum += from[i * ways + j];
    if (sum < low) sum = low;
    to[i] = sum > high ? high : sum;
  }
}

static void NAME(splat_all)(char *dst, const char *src, ptrdiff_t count) {
  for (ptrdiff_t i = 0; i < count; i++) NAME(store)((real *)dst + i * VLEN, NAME(splat)(((const real *)src)[i]));
}

static void NAME(sum_vectors)(char *dst, const char *src, ptrdiff_t count) {
  for (ptrdiff_t i = 0; i < count; i++) ((real *)dst)[i] = NAME(sum_lanes)(NAME(load)((const real *)src + i * VLEN));
}

FILL(depthwise) {
  table->depthwise_outputs = LINE_BLOCK;
  table->depthwise = NAME(depthwise);
  table->depthwise_weight = NAME(depthwise_weight);
  table->depthwise_windows = NAME(depthwise_windows);
  table->depthwise_windows_spread = NAME(depthwise_windows_spread);
  table->depthwise_windows_weight = NAME(depthwise_windows_weight);
  table->interleave = NAME(interleave);
  table->sum_neighbours = NAME(sum_neighbours);
  table->splat = NAME(splat_all);
  table->sum_vectors = NAME(sum_vectors);
}

#undef AT
#undef AT_MUTABLE
#undef LINE_BLOCK
#undef LINE_TAPS
#undef WINDOW_COLUMNS
#undef WINDOW_ROWS
#endif
