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
      PREFETCH_L2(x + (rows + i) * stride + v * VLEN); /* the next block, while this one is read from L1 */
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

typedef struct { /* of a channel, or of each of VLEN channels side by side */
  vec mean, slope, shift, factor;
} NAME(affine_channel);

typedef struct {
  vec slope, shift, lower, upper;
} NAME(gate_channel);

/* A channel's value in all lanes (constant), or those of n <= VLEN channels. */
INLINE vec NAME(channel_values)(const int constant, const char *values, ptrdiff_t channel, ptrdiff_t n) {
  const real *at = (const real *)values + channel;
  return constant ? NAME(splat)(*at) : NAME(load_some)(at, n);
}

#define GATED_BY_MAP 1
#define GATED_BY_RESULT 2

INLINE NAME(gate_channel)
    NAME(gate_of)(const int gated, const int constant, const fastconv_gate *gate, ptrdiff_t channel, ptrdiff_t n) {
  const vec zero = {0};
  if (!gated) return (NAME(gate_channel)){zero, zero, zero, zero};
  const int map = gated == GATED_BY_MAP;
  return (NAME(gate_channel)){map ? NAME(channel_values)(constant, gate->slope, channel, n) : zero,
                              map ? NAME(channel_values)(constant, gate->shift, channel, n) : zero,
                              NAME(splat)((real)gate->lower), NAME(splat)((real)gate->upper)};
}

INLINE vec NAME(pass)(NAME(gate_channel) c, vec y, vec g) {
  return NAME(select)((y <= c.lower) | (y >= c.upper), (vec){0}, g);
}

/* Asks for elements of x, the gradient and what goes with it. */
INLINE void NAME(bring)(const fastconv_affine *a, const int gated, ptrdiff_t at) {
  PREFETCH((const real *)a->x + at);
  PREFETCH((const real *)a->grad_y + at);
  if (gated != GATED_BY_RESULT) return;
  PREFETCH((const real *)a->gate->y + at);
  PREFETCH_WRITE((const real *)a->gate->kept + at);
}

/* Element `at` of the gradient on, of n <= VLEN; its argument is told by the map of x or by y. */
INLINE vec NAME(passed)(const fastconv_affine *a, const int gated, NAME(gate_channel) c, vec centred, ptrdiff_t at,
                        ptrdiff_t n) {
  vec g = NAME(load_some)((const real *)a->grad_y + at, n);
  if (gated == GATED_BY_MAP) g = NAME(pass)(c, centred * c.slope + c.shift, g);
  if (gated == GATED_BY_RESULT) {
    g = NAME(pass)(c, NAME(load_some)((const real *)a->gate->y + at, n), g);
    NAME(store_some)((real *)a->gate->kept + at, g, n);
  }
  return g;
}

INLINE void NAME(row_products)(const fastconv_affine *a, const int gated, ptrdiff_t row, double *sum, double *product) {
  const ptrdiff_t n = a->columns;
  const real *x = (const real *)a->x + row * n;
  const vec mean = NAME(channel_values)(1, a->mean, row, VLEN);
  const NAME(gate_channel) gate = NAME(gate_of)(gated, 1, a->gate, row, VLEN);
  for (ptrdiff_t i = 0; i < n; i += MOMENT_RUN) {
    const ptrdiff_t end = n - i < MOMENT_RUN ? n : i + MOMENT_RUN;
    vec s[2] = {{0}}, p[2] = {{0}};
    ptrdiff_t j = i;
    for (; j + 2 * VLEN <= end; j += 2 * VLEN) UNROLL for (int v = 0; v < 2; v++) {
        const vec d = NAME(load)(x + j + v * VLEN) - mean;
        const vec gj = NAME(passed)(a, gated, gate, d, row * n + j + v * VLEN, VLEN);
        s[v] += gj;
        p[v] += gj * d;
      }
    for (; j < end; j += VLEN) {
      const vec d = NAME(load_some)(x + j, end - j) - mean;
      const vec gj = NAME(passed)(a, gated, gate, d, row * n + j, end - j);
      s[0] += gj;
      p[0] += gj * d;
    }
    sum[row] += NAME(sum_lanes)(s[0] + s[1]);
    product[row] += NAME(sum_lanes)(p[0] + p[1]);
  }
}

INLINE void NAME(column_products)(const fastconv_affine *a, const int gated, const int vectors, ptrdiff_t column,
                                  ptrdiff_t n, double *sum, double *product) {
  vec mean[COLUMN_VECTORS], s[COLUMN_VECTORS] = {{0}}, p[COLUMN_VECTORS] = {{0}};
  NAME(gate_channel) gate[COLUMN_VECTORS];
  UNROLL for (int v = 0; v < vectors; v++) {
    mean[v] = NAME(channel_values)(0, a->mean, column + v * VLEN, n);
    gate[v] = NAME(gate_of)(gated, 0, a->gate, column + v * VLEN, n);
  }
  for (ptrdiff_t i = 0; i < a->rows; i++) UNROLL for (int v = 0; v < vectors; v++) {
      const ptrdiff_t at = i * a->columns + column + v * VLEN;
      const vec d = NAME(load_some)((const real *)a->x + at, n) - mean[v];
      const vec gi = NAME(passed)(a, gated, gate[v], d, at, n);
      NAME(bring)(a, gated, at + a->rows * a->columns);
      s[v] += gi;
      p[v] += gi * d;
    }
  for (int v = 0; v < vectors; v++)
    for (ptrdiff_t j = 0; j < VLEN && j < n; j++) {
      sum[column + v * VLEN + j] += s[v][j];
      product[column + v * VLEN + j] += p[v][j];
    }
}

INLINE void NAME(block_products)(const fastconv_affine *a, const int gated, double *sum, double *product) {
  const ptrdiff_t columns = a->columns;
  ptrdiff_t j = 0;
  for (ptrdiff_t i = 0; a->per_row && i < a->rows; i++) NAME(row_products)(a, gated, i, sum, product);
  if (a->per_row) return;
  for (; j + COLUMN_VECTORS * VLEN <= columns; j += COLUMN_VECTORS * VLEN)
    NAME(column_products)(a, gated, COLUMN_VECTORS, j, VLEN, sum, product);
  for (; j < columns; j += VLEN) NAME(column_products)(a, gated, 1, j, columns - j, sum, product);
}

static void NAME(products)(const fastconv_affine *a, double *sum, double *product) {
  if (a->gate && a->gate->y) NAME(block_products)(a, GATED_BY_RESULT, sum, product);
  else if (a->gate) NAME(block_products)(a, GATED_BY_MAP, sum, product);
  else NAME(block_products)(a, 0, sum, product);
}

INLINE NAME(affine_channel) NAME(affine_of)(const fastconv_affine *a, const int constant, const int with_gradient,
                                            ptrdiff_t channel, ptrdiff_t n) {
  const vec zero = {0};
  return (NAME(affine_channel)){NAME(channel_values)(constant, a->mean, channel, n),
                                NAME(channel_values)(constant, a->slope, channel, n),
                                NAME(channel_values)(constant, a->shift, channel, n),
                                with_gradient ? NAME(channel_values)(constant, a->factor, channel, n) : zero};
}

/* Columns i .. i + n - 1 of a row, n <= VLEN. */
INLINE void NAME(affine_columns)(const fastconv_affine *a, const int with_gradient, const int gated,
                                 NAME(affine_channel) c, NAME(gate_channel) gate, ptrdiff_t at, ptrdiff_t n) {
  const vec d = NAME(load_some)((const real *)a->x + at, n) - c.mean;
  const vec g = with_gradient ? NAME(passed)(a, gated, gate, d, at, n) : (vec){0};
  NAME(store_some)((real *)a->dst + at, d * c.slope + (g * c.factor + c.shift), n);
}

/* One row; with `constant` the channel is that of all columns, else its values are loaded along them. */
INLINE void NAME(affine_row)(const fastconv_affine *a, const int constant, const int with_gradient, const int gated,
                             ptrdiff_t row) {
  const ptrdiff_t n = a->columns, at = row * n;
  NAME(affine_channel) c = NAME(affine_of)(a, constant, with_gradient, constant ? row : 0, n);
  NAME(gate_channel) gate = NAME(gate_of)(gated, constant, a->gate, constant ? row : 0, n);
  for (ptrdiff_t i = 0; i < n; i += VLEN) {
    const ptrdiff_t some = n - i < VLEN ? n - i : VLEN;
    if (!constant) c = NAME(affine_of)(a, 0, with_gradient, i, some), gate = NAME(gate_of)(gated, 0, a->gate, i, some);
    NAME(affine_columns)(a, with_gradient, gated, c, gate, at + i, some);
  }
}

INLINE void NAME(affine_block)(const fastconv_affine *a, const int with_gradient, const int gated) {
  for (ptrdiff_t row = 0; row < a->rows; row++) {
    if (a->per_row) NAME(affine_row)(a, 1, with_gradient, gated, row);
    else NAME(affine_row)(a, 0, with_gradient, gated, row);
  }
}

static void NAME(affine)(const fastconv_affine *a) {
  if (a->grad_y && a->gate) NAME(affine_block)(a, 1, GATED_BY_MAP);
  else if (a->grad_y) NAME(affine_block)(a, 1, 0);
  else NAME(affine_block)(a, 0, 0);
}

#undef GATED_BY_MAP
#undef GATED_BY_RESULT
#undef MOMENT_RUN
#undef COLUMN_VECTORS
