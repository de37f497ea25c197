/* Copies into panels: runs of a plane (channels_first pixels), and matrices, transposed where rows come out contiguous.
 */
#ifndef REAL_BITS
#define FAMILY "pack.c"
#include "dtypes.h"
#else
#include "simd.h"

/* Each may write up to a vector past dst + n: packed rows are written front to back, so what follows covers it. */
INLINE void NAME(zero_run)(real *dst, ptrdiff_t n) {
  for (real *end = dst + n; dst < end; dst += VLEN) {
    NAME(store)(dst, (vec){0});
    __asm__("" : "+r"(dst)); /* else the compiler calls memset for a vector or two */
  }
}

INLINE void NAME(copy_run)(real *dst, const real *src, ptrdiff_t n) {
  ptrdiff_t i = 0;
  for (; i + VLEN <= n; i += VLEN) NAME(store)(dst + i, NAME(load)(src + i));
  if (i < n) NAME(store)(dst + i, NAME(load_tail)(src + i, n - i));
}

INLINE void NAME(copy_run_masked)(real *dst, const real *src, ptrdiff_t n, const real *mask) {
  ptrdiff_t i = 0;
  for (; i + VLEN <= n; i += VLEN) NAME(store)(dst + i, (vec)((ivec)NAME(load)(src + i) & (ivec)NAME(load)(mask + i)));
  if (i < n)
    NAME(store)(dst + i, (vec)((ivec)NAME(load_tail)(src + i, n - i) & (ivec)NAME(load_tail)(mask + i, n - i)));
}

INLINE void NAME(copy_run_step2)(real *dst, const real *src, ptrdiff_t n) {
  ptrdiff_t i = 0;
  for (; i + VLEN < n; i += VLEN)
    NAME(store)(dst + i, NAME(even_lanes)(NAME(load)(src + 2 * i), NAME(load)(src + 2 * i + VLEN)));
  const ptrdiff_t rest = 2 * (n - i) - 1; /* source elements from the first to the last that are left, < 2 VLEN */
  if (rest > VLEN)
    NAME(store)(dst + i, NAME(even_lanes)(NAME(load)(src + 2 * i), NAME(load_tail)(src + 2 * i + VLEN, rest - VLEN)));
  else if (rest > 0) NAME(store)(dst + i, NAME(even_lanes)(NAME(load_some)(src + 2 * i, rest), (vec){0}));
}

INLINE void NAME(copy_any_run)(real *dst, const real *plane, const fastconv_run *run, const real *mask) {
  const real *src = plane + run->from;
  if (run->masked) NAME(copy_run_masked)(dst, src, run->length, mask + run->to);
  else if (run->step == 1) NAME(copy_run)(dst, src, run->length);
  else if (run->step == 2) NAME(copy_run_step2)(dst, src, run->length);
  else
    for (ptrdiff_t i = 0; i < run->length; i++) dst[i] = src[i * run->step];
}

static void NAME(pack_runs)(char *dst, ptrdiff_t ld, const char *src, ptrdiff_t plane_stride, ptrdiff_t planes,
                            const fastconv_run *runs, ptrdiff_t count, const char *mask) {
  for (ptrdiff_t k = 0; k < planes; k++) {
    real *row = (real *)dst + k * ld;
    const real *plane = (const real *)src + k * plane_stride;
    ptrdiff_t at = 0;
    for (ptrdiff_t r = 0; r < count; r++) {
      if (at < runs[r].to) NAME(zero_run)(row + at, runs[r].to - at);
      NAME(copy_any_run)(row + runs[r].to, plane, &runs[r], (const real *)mask);
      at = runs[r].to + runs[r].length;
    }
    if (at < ld) NAME(zero_run)(row + at, ld - at);
  }
}

/* dst[i * ld + j] = src[i + j * stride] for i < rows, j < columns, neither more than a vector; `whole` if both are one.
 */
INLINE void NAME(transpose_block)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t stride, ptrdiff_t rows,
                                  ptrdiff_t columns, const int whole) {
  vec block[VLEN];
  UNROLL for (int v = 0; v < VLEN; v++) {
    block[v] = whole ? NAME(load)(src) : NAME(load_tail)(src, rows);
    src += whole || v + 1 < columns ? stride : 0; /* beyond the last column, the last again: it is not stored */
    __asm__("" : "+r"(src));                      /* else the compiler keeps 15 multiples of stride in registers */
  }
  NAME(transpose)(block);
  UNROLL for (int v = 0; v < VLEN; v++) {
    if (!whole && v == rows) break;
    if (whole) NAME(store)(dst, block[v]);
    else NAME(store_tail)(dst, block[v], columns);
    dst += ld;
    __asm__("" : "+r"(dst));
  }
}

static void NAME(copy_transposed)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t stride, ptrdiff_t rows,
                                  ptrdiff_t columns) {
  for (ptrdiff_t i = 0; i < rows; i += VLEN)
    for (ptrdiff_t j = 0; j < columns; j += VLEN) {
      const ptrdiff_t m = rows - i < VLEN ? rows - i : VLEN, n = columns - j < VLEN ? columns - j : VLEN;
      if (m == VLEN && n == VLEN) NAME(transpose_block)(dst + i * ld + j, ld, src + i + j * stride, stride, m, n, 1);
      else NAME(transpose_block)(dst + i * ld + j, ld, src + i + j * stride, stride, m, n, 0);
    }
}

#define ROWS_AHEAD 2 /* of what is written: short rows far apart are no stream that hardware would see */

static void NAME(copy_rows)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t row_stride, ptrdiff_t rows,
                            ptrdiff_t columns) {
  const ptrdiff_t whole = columns / VLEN * VLEN, tail = columns - whole;
  for (ptrdiff_t i = 0; i < rows; i++, dst += ld, src += row_stride) {
    for (ptrdiff_t j = 0; j < whole; j += VLEN) {
      PREFETCH_WRITE(dst + ROWS_AHEAD * ld + j);
      NAME(store)(dst + j, NAME(load)(src + j));
    }
    if (tail) NAME(store_tail)(dst + whole, NAME(load_tail)(src + whole, tail), tail);
  }
}

/* Every second element. */
static void NAME(copy_even)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t row_stride, ptrdiff_t rows,
                            ptrdiff_t columns) {
  for (ptrdiff_t i = 0; i < rows; i++, dst += ld, src += row_stride) {
    ptrdiff_t j = 0;
    for (; j + VLEN < columns; j += VLEN)
      NAME(store)(dst + j, NAME(even_lanes)(NAME(load)(src + 2 * j), NAME(load)(src + 2 * j + VLEN)));
    for (; j < columns; j++) dst[j] = src[2 * j];
  }
}

static void NAME(copy_matrix)(char *dst, ptrdiff_t ld, const char *src, ptrdiff_t row_stride, ptrdiff_t column_stride,
                              ptrdiff_t rows, ptrdiff_t columns) {
  real *to = (real *)dst;
  const real *from = (const real *)src;
  if (row_stride == 1 && ld == 1 && columns == 1) NAME(copy_rows)(to, 0, from, 0, 1, rows);
  else if (column_stride == 1 && row_stride == columns && ld == columns)
    NAME(copy_rows)(to, 0, from, 0, 1, rows * columns);
  else if (column_stride == 1) NAME(copy_rows)(to, ld, from, row_stride, rows, columns);
  else if (row_stride == 1) NAME(copy_transposed)(to, ld, from, column_stride, rows, columns);
  else if (column_stride == 2) NAME(copy_even)(to, ld, from, row_stride, rows, columns);
  else
    for (ptrdiff_t i = 0; i < rows; i++)
      for (ptrdiff_t j = 0; j < columns; j++) to[i * ld + j] = from[i * row_stride + j * column_stride];
}

static void NAME(pack_matrix)(char *dst, ptrdiff_t ld, const char *src, ptrdiff_t row_stride, ptrdiff_t column_stride,
                              ptrdiff_t rows, ptrdiff_t columns) {
  NAME(copy_matrix)(dst, ld, src, row_stride, column_stride, rows, columns);
  for (ptrdiff_t i = 0; i < rows && columns < ld; i++)
    memset((real *)dst + i * ld + columns, 0, (size_t)(ld - columns) * sizeof(real));
}

/* n <= VLEN elements of every row; whole vectors where what lies behind them may be written. */
INLINE void NAME(copy_column)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t step, ptrdiff_t rows, ptrdiff_t n,
                              int spill) {
  if (spill)
    for (ptrdiff_t i = 0; i < rows; i++) NAME(store)(dst + i * ld, NAME(load)(src + i * step));
  else
    for (ptrdiff_t i = 0; i < rows; i++) NAME(store_tail)(dst + i * ld, NAME(load_tail)(src + i * step, n), n);
}

static void NAME(pack_pieces)(char *dst, ptrdiff_t ld, const char *src, ptrdiff_t step, ptrdiff_t rows,
                              const fastconv_piece *pieces, ptrdiff_t count) {
  for (const fastconv_piece *p = pieces; p < pieces + count; p++)
    for (ptrdiff_t j = 0; j < p->length; j += VLEN) {
      const ptrdiff_t n = p->length - j < VLEN ? p->length - j : VLEN;
      NAME(copy_column)((real *)dst + p->to + j, ld, (const real *)src + p->from + j, step, rows, n,
                        p->room >= j + VLEN);
    }
}

FILL(pack) {
  table->pack_runs = NAME(pack_runs);
  table->copy_matrix = NAME(copy_matrix);
  table->pack_matrix = NAME(pack_matrix);
  table->pack_pieces = NAME(pack_pieces);
}
#endif
