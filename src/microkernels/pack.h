/* Copies into panels: runs of a plane (channels_first pixels) and matrices, transposed where that makes rows contiguous. */

/* May write up to a vector past dst + n: packed rows are written front to back, so the next one covers it. */
INLINE void NAME(copy_run)(real *dst, const real *src, ptrdiff_t n) {
  ptrdiff_t i = 0;
  for (; i + VLEN <= n; i += VLEN) NAME(store)(dst + i, NAME(load)(src + i));
  if (i < n) NAME(store)(dst + i, NAME(load_tail)(src + i, n - i));
}

INLINE void NAME(copy_run_step2)(real *dst, const real *src, ptrdiff_t n) {
  ptrdiff_t i = 0;
  for (; i + VLEN < n; i += VLEN) NAME(store)(dst + i, NAME(even_lanes)(NAME(load)(src + 2 * i), NAME(load)(src + 2 * i + VLEN)));
  for (; i < n; i++) dst[i] = src[2 * i];
}

static void NAME(pack_runs)(char *dst, ptrdiff_t ld, const char *src, ptrdiff_t plane_stride, ptrdiff_t planes,
                            const fastconv_run *runs, ptrdiff_t count) {
  for (ptrdiff_t k = 0; k < planes; k++) {
    real *row = (real *)dst + k * ld;
    const real *plane = (const real *)src + k * plane_stride;
    for (ptrdiff_t r = 0; r < count; r++) {
      real *to = row + runs[r].to;
      const ptrdiff_t n = runs[r].length, step = runs[r].step;
      if (runs[r].from < 0)
        for (ptrdiff_t i = 0; i < n; i += VLEN) NAME(store)(to + i, (vec){0});
      else if (step == 1)
        NAME(copy_run)(to, plane + runs[r].from, n);
      else if (step == 2)
        NAME(copy_run_step2)(to, plane + runs[r].from, n);
      else
        for (ptrdiff_t i = 0; i < n; i++) to[i] = plane[runs[r].from + i * step];
    }
  }
}

static void NAME(pack_rows_of_columns)(real *dst, ptrdiff_t ld, const real *src, ptrdiff_t column_stride, ptrdiff_t rows,
                                       ptrdiff_t columns) {
  ptrdiff_t i = 0;
  for (; i + VLEN <= rows; i += VLEN) {
    ptrdiff_t j = 0;
    for (; j + VLEN <= columns; j += VLEN) {
      vec block[VLEN];
      UNROLL for (int v = 0; v < VLEN; v++) block[v] = NAME(load)(src + i + (j + v) * column_stride);
      NAME(transpose)(block);
      UNROLL for (int v = 0; v < VLEN; v++) NAME(store)(dst + (i + v) * ld + j, block[v]);
    }
    for (; j < columns; j++)
      for (int v = 0; v < VLEN; v++) dst[(i + v) * ld + j] = src[i + v + j * column_stride];
  }
  for (; i < rows; i++)
    for (ptrdiff_t j = 0; j < columns; j++) dst[i * ld + j] = src[i + j * column_stride];
}

static void NAME(pack_matrix)(char *dst, ptrdiff_t ld, const char *src, ptrdiff_t row_stride, ptrdiff_t column_stride,
                              ptrdiff_t rows, ptrdiff_t columns) {
  real *to = (real *)dst;
  const real *from = (const real *)src;
  if (row_stride == 1 && column_stride != 1)
    NAME(pack_rows_of_columns)(to, ld, from, column_stride, rows, columns);
  else
    for (ptrdiff_t i = 0; i < rows; i++)
      for (ptrdiff_t j = 0; j < columns; j++) to[i * ld + j] = from[i * row_stride + j * column_stride];
  for (ptrdiff_t i = 0; i < rows && columns < ld; i++) memset(to + i * ld + columns, 0, (size_t)(ld - columns) * sizeof(real));
}
