/* The adjoint of means in channels_first whose windows are 2 or 3 neighbouring columns wide and 2 apart: 2 * VLEN
 * outputs at a time. Whole vectors of each input row are joined, then those of neighbouring columns, and interleaved.
 * Vectors that reach over a row's end are loaded lane by lane.
 */

#define POOL_SPREAD_ROWS 4  /* above, joining columns anew for every row costs more than lines */
#define POOL_STRIPE_ROWS 32 /* of a stripe of columns: what depends on the columns is made once for them */

INLINE int NAME(pool_is_stripes)(const fastconv_pool *p) {
  const fastconv_windows *w = &p->axis[2];
  if (p->kind != FASTCONV_POOL_SPREAD || w->stride != -2 || w->taps < 2 || w->taps > 3) return 0;
  if (pool_most(&p->axis[0]) * pool_most(&p->axis[1]) > POOL_SPREAD_ROWS) return 0;
  for (ptrdiff_t i = 1; i < w->in; i++)
    if (((const real *)w->scale)[i] != ((const real *)w->scale)[0]) return 0;
  return 1;
}

/* Columns c .. c + VLEN - 1 of a row; zeros outside of it, where only `edge` may look. */
INLINE vec NAME(pool_peek)(const int edge, const real *row, ptrdiff_t c, ptrdiff_t width) {
  return edge ? NAME(load_between)(row + c, -c, width - c, (vec){0}) : NAME(load)(row + c);
}

/* sums[i] = the rows of the window joined at columns c + i * apart on. */
INLINE void NAME(pool_stack)(const int edge, const int nv, const NAME(pool_window) * w, pool_pitch pitch, ptrdiff_t c,
                             const ptrdiff_t apart, ptrdiff_t width, real scale, vec *sums) {
  const real *plane = w->at;
  UNROLL for (int i = 0; i < nv; i++) sums[i] = (vec){0};
  for (ptrdiff_t d = 0; d < w->planes; d++, plane += pitch.d) {
    const real *row = plane;
    for (ptrdiff_t h = 0; h < w->rows; h++, row += pitch.h) {
      const real share = w->scale[0][d] * w->scale[1][h] * scale;
      UNROLL for (int i = 0; i < nv; i++) sums[i] += NAME(pool_peek)(edge, row, c + i * apart, width) * share;
    }
  }
}

/* Outputs i .. i + 2 * VLEN - 1 (n of them), i even: those of one parity see one tap, those of
 * the other the one or two beside it. */
INLINE void NAME(pool_stripe_doubled)(const int edge, const fastconv_pool *p, const NAME(pool_window) * windows,
                                      ptrdiff_t rows, ptrdiff_t i, ptrdiff_t n, real *y) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t out = w->out, width = w->in;
  const real scale = *(const real *)w->scale;
  const pool_pitch pitch = pool_pitch_of(p);
  const int before = w->before > 0, overlap = w->taps == 3;
  for (ptrdiff_t r = 0; r < rows; r++) {
    vec v[2];
    NAME(pool_stack)(edge, 2, windows + r, pitch, i / 2, before ? 1 : -1, width, scale, v);
    const vec both = v[0] + v[1];
    const vec even = overlap && !before ? both : v[0];
    const vec odd = !before ? v[0] : overlap ? both : v[1];
    NAME(store_some)(y + r * out, NAME(interleave_low)(even, odd), n);
    if (n > VLEN) NAME(store_some)(y + r * out + VLEN, NAME(interleave_high)(even, odd), n - VLEN);
  }
}

static void NAME(pool_stripes_doubled)(const fastconv_pool *p, const NAME(pool_window) * windows, ptrdiff_t rows,
                                       real *y) {
  const fastconv_windows *w = &p->axis[2];
  for (ptrdiff_t i = 0; i < w->out; i += 2 * VLEN) {
    const ptrdiff_t n = w->out - i;
    if (i == 0 || i / 2 + VLEN >= w->in || n < 2 * VLEN) NAME(pool_stripe_doubled)(1, p, windows, rows, i, n, y + i);
    else NAME(pool_stripe_doubled)(0, p, windows, rows, i, 2 * VLEN, y + i);
  }
}

static void NAME(pool_stripes)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const ptrdiff_t out = p->axis[2].out, fit = 2 * POOL_BUFFER / (p->axis[2].in + out);
  const ptrdiff_t batch = fit < 1 ? 1 : fit < POOL_STRIPE_ROWS ? fit : POOL_STRIPE_ROWS;
  NAME(pool_window) windows[POOL_STRIPE_ROWS];
  pool_place at = pool_place_of(p, part->begin);
  for (ptrdiff_t row = part->begin; row < part->end; row += batch) {
    const ptrdiff_t rows = part->end - row < batch ? part->end - row : batch;
    real *y = (real *)part->y + (row - part->begin) * out;
    for (ptrdiff_t r = 0; r < rows; r++) {
      windows[r] = NAME(pool_look)(p, (const real *)part->x, at);
      pool_advance(p, &at, 1);
    }
    NAME(pool_stripes_doubled)(p, windows, rows, y);
  }
}
