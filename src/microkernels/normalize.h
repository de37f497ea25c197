/* Batch normalisation of a contiguous block x[rows][columns] whose channels run along the rows (channels_first: an
 * image's planes) or along the columns (channels_last: pixels).
 *
 * Statistics: two passes over a run short enough to stay in L1, then the runs are merged in double (Chan, Golub &
 * LeVeque, Algorithms for computing the sample variance, 1983, equations 2.1): no cancellation, one read of memory.
 */
#define MOMENT_RUN 2048  /* elements */
#define COLUMN_VECTORS 4 /* of channels_last at a time: what is read lies side by side for a while */

INLINE void NAME(merge_moments)(double before, double count, double mean, double squares, double *all_mean,
                                double *all_squares) {
  const double delta = mean - *all_mean, weight = count / (before + count);
  *all_mean += delta * weight;
  *all_squares += squares + delta * delta * before * weight;
}

/* Sum of the elements less `centre`, and of their squares. */
INLINE void NAME(centred_sums)(const real *x, ptrdiff_t n, real centre, double *sum, double *squares) {
  const vec c = NAME(splat)(centre);
  vec s[2] = {{0}}, q[2] = {{0}};
  ptrdiff_t i = 0;
  for (; i + 2 * VLEN <= n; i += 2 * VLEN) {
    UNROLL for (int v = 0; v < 2; v++) {
      const vec d = NAME(load)(x + i + v * VLEN) - c;
      s[v] += d;
      q[v] += d * d;
    }
  }
  for (; i < n; i += VLEN) {
    const vec d = NAME(load_between)(x + i, 0, n - i, c) - c;
    s[0] += d;
    q[0] += d * d;
  }
  *sum = NAME(sum_lanes)(s[0] + s[1]);
  *squares = NAME(sum_lanes)(q[0] + q[1]);
}

static void NAME(row_moments)(const real *x, ptrdiff_t n, double before, double *mean, double *squares) {
  for (ptrdiff_t i = 0; i < n; i += MOMENT_RUN) {
    const ptrdiff_t run = n - i < MOMENT_RUN ? n - i : MOMENT_RUN;
    double sum, square;
    NAME(centred_sums)(x + i, run, x[i], &sum, &square);
    const real centre = (real)(x[i] + sum / run);
    NAME(centred_sums)(x + i, run, centre, &sum, &square); /* sum is what rounding `centre` left */
    NAME(merge_moments)(before + i, run, centre + sum / run, square - sum * sum / run, mean, squares);
  }
}

/* The same down each column: of `vectors` vectors side by side, or of one of `n` columns. */
INLINE void NAME(column_moments)(const int vectors, const real *x, ptrdiff_t rows, ptrdiff_t stride, ptrdiff_t n,
                                 double before, double *mean, double *squares) {
  vec first[COLUMN_VECTORS], sum[COLUMN_VECTORS] = {{0}}, square[COLUMN_VECTORS] = {{0}}, centre[COLUMN_VECTORS];
  UNROLL for (int v = 0; v < vectors; v++) first[v] = NAME(load_some)(x + v * VLEN, n);
  for (ptrdiff_t i = 1; i < rows; i++)
    UNROLL for (int v = 0; v < vectors; v++) sum[v] += NAME(load_some)(x + i * stride + v * VLEN, n) - first[v];
  UNROLL for (int v = 0; v < vectors; v++) {
    centre[v] = first[v] + sum[v] / (real)rows;
    sum[v] = (vec){0};
  }
  for (ptrdiff_t i = 0; i < rows; i++) UNROLL for (int v = 0; v < vectors; v++) {
      const vec d = NAME(load_some)(x + i * stride + v * VLEN, n) - centre[v];
      sum[v] += d;
      square[v] += d * d;
    }
  for (int v = 0; v < vectors; v++) {
    const vec rest = sum[v] / (real)rows, spread = square[v] - sum[v] * rest;
    for (ptrdiff_t j = 0; j < VLEN && j < n; j++)
      NAME(merge_moments)(before, rows, (double)centre[v][j] + rest[j], spread[j], mean + v * VLEN + j,
                          squares + v * VLEN + j);
  }
}

static void NAME(moments)(const char *src, ptrdiff_t rows, ptrdiff_t columns, int per_row, double before, double *mean,
                          double *squares) {
  const real *x = (const real *)src;
  ptrdiff_t j = 0;
  if (per_row) {
    for (ptrdiff_t i = 0; i < rows; i++) NAME(row_moments)(x + i * columns, columns, before, mean + i, squares + i);
    return;
  }
  for (; j + COLUMN_VECTORS * VLEN <= columns; j += COLUMN_VECTORS * VLEN)
    NAME(column_moments)(COLUMN_VECTORS, x + j, rows, columns, VLEN, before, mean + j, squares + j);
  for (; j < columns; j += VLEN)
    NAME(column_moments)(1, x + j, rows, columns, columns - j, before, mean + j, squares + j);
}

static void NAME(row_products)(const real *g, const real *x, ptrdiff_t n, real mean, double *sum, double *product) {
  for (ptrdiff_t i = 0; i < n; i += MOMENT_RUN) {
    const ptrdiff_t end = n - i < MOMENT_RUN ? n : i + MOMENT_RUN;
    vec s[2] = {{0}}, p[2] = {{0}};
    ptrdiff_t j = i;
    for (; j + 2 * VLEN <= end; j += 2 * VLEN) UNROLL for (int v = 0; v < 2; v++) {
        const vec gj = NAME(load)(g + j + v * VLEN);
        s[v] += gj;
        p[v] += gj * (NAME(load)(x + j + v * VLEN) - mean);
      }
    for (; j < end; j += VLEN) {
      const vec gj = NAME(load_some)(g + j, end - j);
      s[0] += gj;
      p[0] += gj * (NAME(load_some)(x + j, end - j) - mean);
    }
    *sum += NAME(sum_lanes)(s[0] + s[1]);
    *product += NAME(sum_lanes)(p[0] + p[1]);
  }
}

INLINE void NAME(column_products)(const int vectors, const real *g, const real *x, ptrdiff_t rows, ptrdiff_t stride,
                                  ptrdiff_t n, const real *mean, double *sum, double *product) {
  vec m[COLUMN_VECTORS], s[COLUMN_VECTORS] = {{0}}, p[COLUMN_VECTORS] = {{0}};
  UNROLL for (int v = 0; v < vectors; v++) m[v] = NAME(load_some)(mean + v * VLEN, n);
  for (ptrdiff_t i = 0; i < rows; i++) UNROLL for (int v = 0; v < vectors; v++) {
      const vec gi = NAME(load_some)(g + i * stride + v * VLEN, n);
      s[v] += gi;
      p[v] += gi * (NAME(load_some)(x + i * stride + v * VLEN, n) - m[v]);
    }
  for (int v = 0; v < vectors; v++)
    for (ptrdiff_t j = 0; j < VLEN && j < n; j++) {
      sum[v * VLEN + j] += s[v][j];
      product[v * VLEN + j] += p[v][j];
    }
}

static void NAME(products)(const char *grad_y, const char *src, ptrdiff_t rows, ptrdiff_t columns, int per_row,
                           const char *means, double *sum, double *product) {
  const real *g = (const real *)grad_y, *x = (const real *)src, *mean = (const real *)means;
  ptrdiff_t j = 0;
  if (per_row) {
    for (ptrdiff_t i = 0; i < rows; i++)
      NAME(row_products)(g + i * columns, x + i * columns, columns, mean[i], sum + i, product + i);
    return;
  }
  for (; j + COLUMN_VECTORS * VLEN <= columns; j += COLUMN_VECTORS * VLEN)
    NAME(column_products)(COLUMN_VECTORS, g + j, x + j, rows, columns, VLEN, mean + j, sum + j, product + j);
  for (; j < columns; j += VLEN)
    NAME(column_products)(1, g + j, x + j, rows, columns, columns - j, mean + j, sum + j, product + j);
}

typedef struct {
  vec mean, slope, shift, factor;
} NAME(affine_channel);

INLINE vec NAME(affine_value)(NAME(affine_channel) c, vec x, vec g) {
  return (x - c.mean) * c.slope + (g * c.factor + c.shift);
}

/* One row; with `constant` the channel is that of all columns, else its values are loaded along them. */
INLINE void NAME(affine_row)(const fastconv_affine *a, const int constant, const int with_gradient, ptrdiff_t row) {
  const real *mean = (const real *)a->mean, *slope = (const real *)a->slope, *shift = (const real *)a->shift;
  const real *factor = (const real *)a->factor, *x = (const real *)a->x + row * a->columns;
  const real *g = with_gradient ? (const real *)a->grad_y + row * a->columns : NULL;
  real *y = (real *)a->dst + row * a->columns;
  const ptrdiff_t n = a->columns;
  const vec zero = {0};
  NAME(affine_channel) c = {zero, zero, zero, zero};
  if (constant)
    c = (NAME(affine_channel)){NAME(splat)(mean[row]), NAME(splat)(slope[row]), NAME(splat)(shift[row]),
                               with_gradient ? NAME(splat)(factor[row]) : zero};
  ptrdiff_t i = 0;
  for (; i + VLEN <= n; i += VLEN) {
    if (!constant)
      c = (NAME(affine_channel)){NAME(load)(mean + i), NAME(load)(slope + i), NAME(load)(shift + i),
                                 with_gradient ? NAME(load)(factor + i) : zero};
    NAME(store)(y + i, NAME(affine_value)(c, NAME(load)(x + i), with_gradient ? NAME(load)(g + i) : zero));
  }
  if (i < n) {
    const ptrdiff_t rest = n - i;
    if (!constant)
      c = (NAME(affine_channel)){NAME(load_tail)(mean + i, rest), NAME(load_tail)(slope + i, rest),
                                 NAME(load_tail)(shift + i, rest),
                                 with_gradient ? NAME(load_tail)(factor + i, rest) : zero};
    NAME(store_tail)(
        y + i, NAME(affine_value)(c, NAME(load_tail)(x + i, rest), with_gradient ? NAME(load_tail)(g + i, rest) : zero),
        rest);
  }
}

static void NAME(affine)(const fastconv_affine *a) {
  for (ptrdiff_t row = 0; row < a->rows; row++) {
    if (a->per_row && a->grad_y) NAME(affine_row)(a, 1, 1, row);
    else if (a->per_row) NAME(affine_row)(a, 1, 0, row);
    else if (a->grad_y) NAME(affine_row)(a, 0, 1, row);
    else NAME(affine_row)(a, 0, 0, row);
  }
}

#undef MOMENT_RUN
#undef COLUMN_VECTORS
