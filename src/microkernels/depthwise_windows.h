/* Windows of 3 x 3 taps over pixels whose channels lie side by side.
 *
 * A block of R x P outputs keeps its sums and all nine taps of a vector of channels in registers. Each x is loaded once
 * for up to min(R, 3) x min(P, 3) products: 4 x 2 outputs take 24 loads for 72, where a line of eight takes 39. The
 * channels of a block follow each other, so x is read as a few streams that hardware foresees.
 * Sums are those of depthwise_lines.h, in its order: columns by their residue of the stride, rows, columns.
 */
#if VEC_REGISTERS == 32
#define WINDOW_ROWS 4 /* 8 sums + 9 taps + 1 */
#else
#define WINDOW_ROWS 2 /* 4 sums + 9 taps + 1 */
#endif
#define WINDOW_COLUMNS 2

/* Sums of R x P outputs of one vector, whose first tap meets x; bit i of `rows` and bit j of `columns` are set where x
 * has that row and column of the R' x P' that the block meets. `all`: they are set. */
INLINE void NAME(window_sums)(vec *sum, const fastconv_depthwise_windows *d, const real *x, const char *w, ptrdiff_t n,
                              uint32_t rows, uint32_t columns, const int R, const int P, const int S, const int all,
                              const int masked) {
  vec tap[9];
  UNROLL for (int t = 0; t < 9; t++) tap[t] = NAME(load)(AT(w, t / 3 * d->w_row + t % 3 * d->w_column));
  UNROLL for (int s = 0; s < R * P; s++) sum[s] = (vec){0};
  UNROLL for (int residue = 0; residue < S; residue++) UNROLL for (int i = 0; i < (R - 1) * S + 3; i++) {
    const real *xi = AT(x, i * d->x_row);
    IN_POINTER(xi);
    if (all || __builtin_expect(rows & (uint32_t)1 << i, 1))
      UNROLL for (int j = residue; j < (P - 1) * S + 3;
                  j += S) if (all || __builtin_expect(columns & (uint32_t)1 << j, 1)) {
        vec v = NAME(load_lanes)(AT(xi, j * d->x_column), masked, n);
        OPAQUE(v);
        UNROLL for (int f = 0; f < 3; f++) if (i >= f && (i - f) % S == 0 && (i - f) / S < R)
            UNROLL for (int u = 0; u < 3; u++) if (j >= u && (j - u) % S == 0 && (j - u) / S < P)
                sum[(i - f) / S * P + (j - u) / S] += v * tap[3 * f + u];
      }
  }
}

INLINE void NAME(window_vector)(const fastconv_depthwise_windows *d, const real *x, real *y, ptrdiff_t from,
                                uint32_t rows, uint32_t columns, const int R, const int P, const int S, const int all,
                                const int masked) {
  const ptrdiff_t w_across = from / VLEN * d->w_across, n = d->lanes - from;
  vec sum[WINDOW_ROWS * WINDOW_COLUMNS];
  NAME(window_sums)(sum, d, x + from, d->w + w_across, n, rows, columns, R, P, S, all, masked);
  if (d->shift) {
    const vec shift = NAME(load)(AT(d->shift, w_across));
    UNROLL for (int s = 0; s < R * P; s++) sum[s] += shift;
  }
  if (d->lower > -INFINITY || d->upper < INFINITY) {
    const vec lower = NAME(splat)((real)d->lower), upper = NAME(splat)((real)d->upper);
    UNROLL for (int s = 0; s < R * P; s++) sum[s] = NAME(at_most)(NAME(at_least)(sum[s], lower), upper);
  }
  UNROLL for (int s = 0; s < R * P; s++)
      NAME(store_some)(AT_MUTABLE(y + from, s / P * d->y_row + s % P * d->y_column), sum[s], masked ? n : VLEN);
}

/* Bit i < count is set if position first + i is one of `size`. */
INLINE uint32_t NAME(met)(ptrdiff_t first, ptrdiff_t size, int count) {
  const ptrdiff_t low = first < 0 ? -first : 0, high = size - first;
  if (high <= low || low >= count) return 0;
  return ((uint32_t)1 << (high < count ? high : count)) - ((uint32_t)1 << low);
}

INLINE void NAME(window_block)(const fastconv_depthwise_windows *d, ptrdiff_t row, ptrdiff_t column, const int R,
                               const int S, const int all) {
  const int P = WINDOW_COLUMNS;
  const ptrdiff_t top = d->top + row * S, left = d->left + column * S;
  const uint32_t rows = NAME(met)(top, d->height, (R - 1) * S + 3);
  const uint32_t columns = NAME(met)(left, d->width, (P - 1) * S + 3);
  const real *x = AT(d->x, top * d->x_row + left * d->x_column);
  real *y = AT_MUTABLE(d->y, row * d->y_row + column * d->y_column);
  ptrdiff_t from = 0;
  for (; from + VLEN <= d->lanes; from += VLEN) NAME(window_vector)(d, x, y, from, rows, columns, R, P, S, all, 0);
  if (from < d->lanes) NAME(window_vector)(d, x, y, from, rows, columns, R, P, S, all, 1);
}

/* R rows of outputs from `row` on. The last block of columns ends where they end: it may make some a second time. */
#define WINDOW_BLOCKS(R, S)                                                                                         \
  OUTLINE void NAME(window_inner_##R##_##S)(const fastconv_depthwise_windows *d, ptrdiff_t row, ptrdiff_t column) { \
    NAME(window_block)(d, row, column, R, S, 1);                                                                    \
  }                                                                                                                 \
  OUTLINE void NAME(window_edge_##R##_##S)(const fastconv_depthwise_windows *d, ptrdiff_t row, ptrdiff_t column) {  \
    NAME(window_block)(d, row, column, R, S, 0);                                                                    \
  }                                                                                                                 \
  OUTLINE void NAME(window_rows_##R##_##S)(const fastconv_depthwise_windows *d, ptrdiff_t row) {                    \
    const ptrdiff_t top = d->top + row * S, below = top + (R - 1) * S + 3, wide = (WINDOW_COLUMNS - 1) * S + 3;     \
    for (ptrdiff_t column = 0; column < d->columns; column += WINDOW_COLUMNS) {                                     \
      if (column > d->columns - WINDOW_COLUMNS) column = d->columns - WINDOW_COLUMNS;                               \
      const ptrdiff_t left = d->left + column * S;                                                                  \
      if (top >= 0 && below <= d->height && left >= 0 && left + wide <= d->width)                                   \
        NAME(window_inner_##R##_##S)(d, row, column);                                                               \
      else NAME(window_edge_##R##_##S)(d, row, column);                                                             \
    }                                                                                                               \
  }
WINDOW_BLOCKS(2, 1)
WINDOW_BLOCKS(2, 2)
#if WINDOW_ROWS == 4
WINDOW_BLOCKS(4, 1)
WINDOW_BLOCKS(4, 2)
#endif
#undef WINDOW_BLOCKS

/* All rows; the last block of them ends where they end, too. */
static void NAME(depthwise_windows)(const fastconv_depthwise_windows *d) {
  ptrdiff_t row = 0;
#if WINDOW_ROWS == 4
  for (; d->rows - row > 2 && d->rows >= 4; row += 4) {
    if (row > d->rows - 4) row = d->rows - 4;
    if (d->stride == 1) NAME(window_rows_4_1)(d, row);
    else NAME(window_rows_4_2)(d, row);
  }
#endif
  for (; row < d->rows; row += 2) {
    if (row > d->rows - 2) row = d->rows - 2;
    if (d->stride == 1) NAME(window_rows_2_1)(d, row);
    else NAME(window_rows_2_2)(d, row);
  }
}

#undef WINDOW_ROWS
#undef WINDOW_COLUMNS
