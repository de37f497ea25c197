/* Copies into panels: runs of a plane (channels_first pixels), and matrices, transposed where rows come out contiguous.
 */
#ifndef REAL_BITS
#define FAMILY "pack.c"
#include "dtypes.h"
#else
#include "simd.h"

#define PLANES_AT_ONCE 16 /* each has a page of its own, and so many pages are at hand */

/* A run of every plane: n elements from dst + k * ld on. Where they `spill`, what follows n in a row, up to a whole
 * vector, is written after it; else it is left alone. */
INLINE void NAME(store_last)(real *dst, vec v, ptrdiff_t n, const int spill) {
  if (spill) NAME(store)(dst, v);
  else NAME(store_tail)(dst, v, n);
}

/* Asks for what is copied next: runs of planes far apart are no stream that hardware would see. */
INLINE void NAME(bring_run)(const real *src, ptrdiff_t n) {
  for (ptrdiff_t i = 0; i < n; i += VLEN) PREFETCH(src + i);
}

INLINE void NAME(zero_run)(real *dst, ptrdiff_t ld, ptrdiff_t planes, ptrdiff_t n) {
  const ptrdiff_t whole = n / VLEN * VLEN, tail = n - whole;
  for (ptrdiff_t k = 0; k < planes; k++, dst += ld) {
    for (ptrdiff_t i = 0; i < whole; i += VLEN) NAME(store)(dst + i, (vec){0});
    if (tail) NAME(store_tail)(dst + whole, (vec){0}, tail);
  }
}

/* One of the copies below, whose number of whole vectors is known where they are few. */
#define COPY_CASE(COPY, COUNT, ...)                               \
  case COUNT:                                                     \
    NAME(COPY)(dst, ld, src, stride, planes, COUNT, __VA_ARGS__); \
    break;
#define COPY_RUN(COPY, COUNT, ...)                                  \
  switch (COUNT) {                                                  \
    COPY_CASE(COPY, 0, __VA_ARGS__)                                 \
    COPY_CASE(COPY, 1, __VA_ARGS__)                                 \
    COPY_CASE(COPY, 2, __VA_ARGS__)                                 \
    COPY_CASE(COPY, 3, __VA_ARGS__)                                 \
    default:                                                        \
      NAME(COPY)(dst, ld, src, stride, planes, COUNT, __VA_ARGS__); \
  }

INLINE void NAME(copy_run)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t stride, ptrdiff_t planes,
                           const ptrdiff_t vectors, ptrdiff_t tail, const int spill) {
  const ptrdiff_t whole = vectors * VLEN;
  for (ptrdiff_t k = 0; k < planes; k++, dst += ld, src += stride) {
    if (planes == PLANES_AT_ONCE) NAME(bring_run)(src + PLANES_AT_ONCE * stride, whole + 1);
    for (ptrdiff_t i = 0; i < whole; i += VLEN) NAME(store)(dst + i, NAME(load)(src + i));
    if (tail) NAME(store_last)(dst + whole, NAME(load_tail)(src + whole, tail), tail, spill);
  }
}

INLINE void NAME(copy_run_masked)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t stride, ptrdiff_t planes,
                                  const ptrdiff_t vectors, ptrdiff_t tail, const int spill, const real *mask) {
  const ptrdiff_t whole = vectors * VLEN;
  const ivec last = tail ? (ivec)NAME(load_tail)(mask + whole, tail) : (ivec){0};
  for (ptrdiff_t k = 0; k < planes; k++, dst += ld, src += stride) {
    if (planes == PLANES_AT_ONCE) NAME(bring_run)(src + PLANES_AT_ONCE * stride, whole + 1);
    for (ptrdiff_t i = 0; i < whole; i += VLEN)
      NAME(store)(dst + i, (vec)((ivec)NAME(load)(src + i) & (ivec)NAME(load)(mask + i)));
    if (tail) NAME(store_last)(dst + whole, (vec)((ivec)NAME(load_tail)(src + whole, tail) & last), tail, spill);
  }
}

/* Every second element of 2 * n - 1, behind which src has none: the last 1 .. VLEN, the tail, go by themselves. */
INLINE void NAME(copy_run_step2)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t stride, ptrdiff_t planes,
                                 const ptrdiff_t vectors, ptrdiff_t tail, const int spill) {
  const ptrdiff_t whole = vectors * VLEN;
  const ptrdiff_t rest = 2 * tail - 1, more = rest > VLEN ? rest - VLEN : 0;
  for (ptrdiff_t k = 0; k < planes; k++, dst += ld, src += stride) {
    if (planes == PLANES_AT_ONCE) NAME(bring_run)(src + PLANES_AT_ONCE * stride, 2 * whole + VLEN);
    for (ptrdiff_t i = 0; i < whole; i += VLEN)
      NAME(store)(dst + i, NAME(even_lanes)(NAME(load)(src + 2 * i), NAME(load)(src + 2 * i + VLEN)));
    const real *end = src + 2 * whole;
    const vec low = NAME(load_some)(end, rest), high = more ? NAME(load_tail)(end + VLEN, more) : (vec){0};
    NAME(store_last)(dst + whole, NAME(even_lanes)(low, high), tail, spill);
  }
}

INLINE void NAME(copy_any_run)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t stride, ptrdiff_t planes,
                               const fastconv_run *run, const real *mask, const int spill) {
  const ptrdiff_t vectors = (run->length - (run->step == 2)) / VLEN, tail = run->length - vectors * VLEN;
  dst += run->to, src += run->from;
  if (run->masked) COPY_RUN(copy_run_masked, vectors, tail, spill, mask + run->to)
  else if (run->step == 1) COPY_RUN(copy_run, vectors, tail, spill)
  else if (run->step == 2) COPY_RUN(copy_run_step2, vectors, tail, spill)
  else
    for (ptrdiff_t k = 0; k < planes; k++, dst += ld, src += stride)
      for (ptrdiff_t i = 0; i < run->length; i++) dst[i] = src[i * run->step];
}

/* Run by run, each for all planes: what depends on a run's length is settled once, and branches go one way. */
INLINE void NAME(pack_planes)(real *dst, ptrdiff_t ld, ptrdiff_t columns, const real *src, ptrdiff_t stride,
                              ptrdiff_t planes, const fastconv_run *runs, ptrdiff_t count, const real *mask) {
  ptrdiff_t done = 0; /* a run's last vector leaves zeros behind it */
  for (const fastconv_run *run = runs; run < runs + count; run++) {
    const ptrdiff_t end = run->to + run->length, spilled = run->to + (run->length + VLEN - 1) / VLEN * VLEN;
    const int vectors = run->masked || run->step == 1 || run->step == 2;
    if (done < run->to) NAME(zero_run)(dst + done, ld, planes, run->to - done);
    if (spilled <= columns) NAME(copy_any_run)(dst, ld, src, stride, planes, run, mask, 1);
    else NAME(copy_any_run)(dst, ld, src, stride, planes, run, mask, 0);
    done = vectors && spilled <= columns ? spilled : end;
  }
  if (done < columns) NAME(zero_run)(dst + done, ld, planes, columns - done);
}

static void NAME(pack_runs)(char *dst, ptrdiff_t ld, ptrdiff_t columns, const char *src, ptrdiff_t plane_stride,
                            ptrdiff_t planes, const fastconv_run *runs, ptrdiff_t count, const char *mask) {
  for (ptrdiff_t k = 0; k < planes; k += PLANES_AT_ONCE)
    NAME(pack_planes)((real *)dst + k * ld, ld, columns, (const real *)src + k * plane_stride, plane_stride,
                      planes - k < PLANES_AT_ONCE ? planes - k : PLANES_AT_ONCE, runs, count, (const real *)mask);
}

/* Which side of a transposition has its vectors far apart, where no hardware sees a stream: it is asked for ahead. */
#define FAR_SOURCE 1
#define FAR_DESTINATION 2
#define LINES_AHEAD (512 / (ptrdiff_t)sizeof(real))

/* dst[i * ld + j] = src[i + j * stride] for i < rows, j < columns, neither more than a vector; `whole` if both are one.
 */
INLINE void NAME(transpose_block)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t stride, ptrdiff_t rows,
                                  ptrdiff_t columns, const int whole, const int far) {
  vec block[VLEN];
  UNROLL for (int v = 0; v < VLEN; v++) {
    if (far == FAR_SOURCE) PREFETCH(src + LINES_AHEAD);
    block[v] = whole ? NAME(load)(src) : NAME(load_tail)(src, rows);
    src += whole || v + 1 < columns ? stride : 0; /* beyond the last column, the last again: it is not stored */
    __asm__("" : "+r"(src));                      /* else the compiler keeps 15 multiples of stride in registers */
  }
  NAME(transpose)(block);
  UNROLL for (int v = 0; v < VLEN; v++) {
    if (!whole && v == rows) break;
    if (far == FAR_DESTINATION) PREFETCH_WRITE(dst + LINES_AHEAD);
    if (whole) NAME(store)(dst, block[v]);
    else NAME(store_tail)(dst, block[v], columns);
    dst += ld;
    __asm__("" : "+r"(dst));
  }
}

INLINE void NAME(copy_transposed_far)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t stride, ptrdiff_t rows,
                                      ptrdiff_t columns, const int far) {
  for (ptrdiff_t i = 0; i < rows; i += VLEN)
    for (ptrdiff_t j = 0; j < columns; j += VLEN) {
      const ptrdiff_t m = rows - i < VLEN ? rows - i : VLEN, n = columns - j < VLEN ? columns - j : VLEN;
      if (m == VLEN && n == VLEN)
        NAME(transpose_block)(dst + i * ld + j, ld, src + i + j * stride, stride, m, n, 1, far);
      else NAME(transpose_block)(dst + i * ld + j, ld, src + i + j * stride, stride, m, n, 0, far);
    }
}

static void NAME(copy_transposed)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t stride, ptrdiff_t rows,
                                  ptrdiff_t columns) {
  if (rows > VLEN) NAME(copy_transposed_far)(dst, ld, src, stride, rows, columns, FAR_SOURCE);
  else if (columns > VLEN) NAME(copy_transposed_far)(dst, ld, src, stride, rows, columns, FAR_DESTINATION);
  else NAME(copy_transposed_far)(dst, ld, src, stride, rows, columns, 0);
}

#define ROWS_READ_AHEAD 32 /* the same of short rows that are read */
#define ROWS_AHEAD 2       /* of what is written: short rows far apart are no stream that hardware would see */

static void NAME(copy_rows)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t row_stride, ptrdiff_t rows,
                            ptrdiff_t columns) {
  const ptrdiff_t whole = columns / VLEN * VLEN, tail = columns - whole;
  const int apart = columns <= 4 * VLEN && row_stride > columns;
  for (ptrdiff_t i = 0; i < rows; i++, dst += ld, src += row_stride) {
    for (ptrdiff_t j = 0; j < whole; j += VLEN) {
      PREFETCH_WRITE(dst + ROWS_AHEAD * ld + j);
      if (apart) PREFETCH(src + ROWS_READ_AHEAD * row_stride + j);
      NAME(store)(dst + j, NAME(load)(src + j));
    }
    if (tail) {
      if (apart) PREFETCH(src + ROWS_READ_AHEAD * row_stride + whole);
      NAME(store_tail)(dst + whole, NAME(load_tail)(src + whole, tail), tail);
    }
  }
}

/* Every second element. */
static void NAME(copy_even)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t row_stride, ptrdiff_t rows,
                            ptrdiff_t columns) {
  for (ptrdiff_t i = 0; i < rows; i++, dst += ld, src += row_stride) {
    ptrdiff_t j = 0;
    for (; j + VLEN < columns; j += VLEN)
      NAME(store)(dst + j, NAME(even_lanes)(NAME(load)(src + 2 * j), NAME(load)(src + 2 * j + VLEN)));
    const ptrdiff_t n = columns - j, reach = 2 * n - 1; /* nothing behind the last element is read */
    if (n <= 0) continue;
    const vec low = NAME(load_some)(src + 2 * j, reach),
              high = NAME(load_between)(src + 2 * j + VLEN, 0, reach - VLEN, low);
    NAME(store_tail)(dst + j, NAME(even_lanes)(low, high), n);
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
