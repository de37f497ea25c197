/* The input gradient of 3 x 3 windows of stride 2: each gradient is spread over the 3 x 3 pixels that its window met.
 *
 * Counted from the padding's edge, pixels 2k and 2k + 1 of an axis are a cell: the first meets gradients k - 1 and k,
 * the second k alone. A block of R x P cells keeps the sums of its 2R x 2P pixels and all nine taps in registers and
 * loads (R + 1) x (P + 1) gradients, so that no phase of the stride goes over the memory by itself.
 */
#if VEC_REGISTERS == 32
#define CELLS 2 /* along either axis: 16 sums + 9 taps + 1 */
#else
#define CELLS 1 /* 4 sums + 9 taps + 1 */
#endif
#define PIXELS (2 * CELLS)

/* Bits of the gradients and pixels, along both axes, that there are. */
typedef struct {
  uint32_t rows, columns, pixel_rows, pixel_columns;
} NAME(cell_edges);

INLINE void NAME(spread_vector)(const fastconv_depthwise_windows *d, const NAME(window_call) * call, const real *x,
                                real *y, ptrdiff_t across, ptrdiff_t n, NAME(cell_edges) edges, const int all,
                                const int masked) {
  const char *w = call->w + across;
  vec tap[9], sum[PIXELS * PIXELS];
  UNROLL for (int t = 0; t < 9; t++) tap[t] = NAME(load)(AT(w, t / 3 * d->w_row + t % 3 * d->w_column));
  UNROLL for (int s = 0; s < PIXELS * PIXELS; s++) sum[s] = (vec){0};
  UNROLL for (int i = 0; i <= CELLS; i++) if (all || edges.rows & (uint32_t)1 << i)
      UNROLL for (int j = 0; j <= CELLS; j++) if (all || edges.columns & (uint32_t)1 << j) {
    vec v = NAME(load_lanes)(AT(x, i * d->x_row + j * d->x_column), masked, n);
    OPAQUE(v);
    UNROLL for (int t = 0; t < 9; t++) {
      const int r = 2 * (i - 1) + t / 3, c = 2 * (j - 1) + t % 3;
      if (r >= 0 && r < PIXELS && c >= 0 && c < PIXELS) sum[r * PIXELS + c] += v * tap[t];
    }
  }
  if (call->shift) {
    const vec shift = NAME(load)(AT(call->shift, across));
    UNROLL for (int s = 0; s < PIXELS * PIXELS; s++) sum[s] += shift;
  }
  if (call->clamps)
    UNROLL for (int s = 0; s < PIXELS * PIXELS; s++) sum[s] =
        NAME(at_most)(NAME(at_least)(sum[s], call->lower), call->upper);
  UNROLL for (int r = 0; r < PIXELS; r++) if (all || edges.pixel_rows & (uint32_t)1 << r)
      UNROLL for (int c = 0; c < PIXELS; c++) if (all || edges.pixel_columns & (uint32_t)1 << c)
          NAME(store_some)(AT_MUTABLE(y, r * d->y_row + c * d->y_column), sum[r * PIXELS + c], masked ? n : VLEN);
}

INLINE void NAME(spread_block)(const fastconv_depthwise_windows *d, const NAME(window_call) * call, ptrdiff_t row,
                               ptrdiff_t column, NAME(cell_edges) edges, const int all) {
  const real *x = AT(call->x, (row - 1) * d->x_row + (column - 1) * d->x_column);
  real *y = AT_MUTABLE(call->y, (2 * row - d->top) * d->y_row + (2 * column - d->left) * d->y_column);
  ptrdiff_t n = d->lanes, across = 0;
  for (; n >= VLEN; n -= VLEN, x += VLEN, y += VLEN, across += d->w_across)
    NAME(spread_vector)(d, call, x, y, across, n, edges, all, 0);
  if (n) NAME(spread_vector)(d, call, x, y, across, n, edges, all, 1);
}

OUTLINE void NAME(spread_inner)(const fastconv_depthwise_windows *d, const NAME(window_call) * call, ptrdiff_t row,
                                ptrdiff_t column, NAME(cell_edges) edges) {
  NAME(spread_block)(d, call, row, column, edges, 1);
}

OUTLINE void NAME(spread_edge)(const fastconv_depthwise_windows *d, const NAME(window_call) * call, ptrdiff_t row,
                               ptrdiff_t column, NAME(cell_edges) edges) {
  NAME(spread_block)(d, call, row, column, edges, 0);
}

/* All cells that have a pixel within top .. top + rows and left .. left + columns. */
static void NAME(depthwise_windows_spread)(const fastconv_depthwise_windows *d, const char *x, const char *w,
                                           const char *shift, char *y, double lower, double upper) {
  const NAME(window_call) call = NAME(call_of)(x, w, shift, y, lower, upper);
  const uint32_t gradients = ((uint32_t)2 << CELLS) - 1, pixels = ((uint32_t)1 << PIXELS) - 1;
  for (ptrdiff_t row = d->top / 2; 2 * row < d->top + d->rows; row += CELLS)
    for (ptrdiff_t column = d->left / 2; 2 * column < d->left + d->columns; column += CELLS) {
      const NAME(cell_edges)
          edges = {NAME(met)(row - 1, d->height, CELLS + 1), NAME(met)(column - 1, d->width, CELLS + 1),
                   NAME(met)(2 * row - d->top, d->rows, PIXELS), NAME(met)(2 * column - d->left, d->columns, PIXELS)};
      const int inner = edges.rows == gradients && edges.columns == gradients && edges.pixel_rows == pixels &&
                        edges.pixel_columns == pixels;
      (inner ? NAME(spread_inner) : NAME(spread_edge))(d, &call, row, column, edges);
    }
}

#undef CELLS
#undef PIXELS
