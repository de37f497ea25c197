/* Pools of channels_first whose windows are 2 or 3 neighbouring columns wide and 1 or 2 apart: VLEN outputs at a time.
 *
 * Whole vectors of each input row are joined, then their columns: at stride 1 the vectors of neighbouring columns, at
 * stride 2 the even and odd lanes of a pair. Vectors that reach over a row's end are loaded lane by lane.
 */

#define POOL_REGISTER_ROWS 4 /* above, joining columns anew for every row costs more than a buffer */
#define POOL_STRIPE_ROWS                                                                      \
  32 /* output rows of a stripe of columns: what depends on the columns is made once for them \
      */

INLINE int NAME(pool_in_registers)(const fastconv_pool *p) {
  const fastconv_windows *w = &p->axis[2];
  if (w->step != 1 || w->taps < 2 || w->taps > 3) return 0;
  if (pool_most(&p->axis[0]) * pool_most(&p->axis[1]) > POOL_REGISTER_ROWS) return 0;
  if (p->kind == FASTCONV_POOL_SPREAD) {
    for (ptrdiff_t i = 1; i < w->in; i++)
      if (((const real *)w->scale)[i] != ((const real *)w->scale)[0]) return 0;
    return w->stride == 1 || w->stride == -2;
  }
  return (w->stride == 1 || w->stride == 2) && (p->kind == FASTCONV_POOL_MAX || p->kind == FASTCONV_POOL_MEAN);
}

/* Columns c .. c + VLEN - 1 of a row; neutral outside of it, where only `edge` may look. */
INLINE vec NAME(pool_peek)(const int edge, const real *row, ptrdiff_t c, ptrdiff_t width, vec neutral) {
  return edge ? NAME(load_between)(row + c, -c, width - c, neutral) : NAME(load)(row + c);
}

/* sums[i] = the rows of the window joined at columns c + i * apart on. */
INLINE void NAME(pool_stack)(const int kind, const int edge, const int nv, const NAME(pool_window) * w,
                             pool_pitch pitch, ptrdiff_t c, const ptrdiff_t apart, ptrdiff_t width, real scale,
                             vec *sums) {
  const vec neutral = NAME(splat)(NAME(pool_neutral)(kind));
  const real *plane = w->at;
  UNROLL for (int i = 0; i < nv; i++) sums[i] = neutral;
  for (ptrdiff_t d = 0; d < w->planes; d++, plane += pitch.d) {
    const real *row = plane;
    for (ptrdiff_t h = 0; h < w->rows; h++, row += pitch.h) {
      const real share = kind == FASTCONV_POOL_SPREAD ? w->scale[0][d] * w->scale[1][h] * scale : 1;
      UNROLL for (int i = 0; i < nv; i++) {
        const vec v = NAME(pool_peek)(edge, row, c + i * apart, width, neutral);
        sums[i] = NAME(pool_join)(kind, sums[i], kind == FASTCONV_POOL_SPREAD ? v * share : v);
      }
    }
  }
}

/* The windows that begin at columns c, c + stride, ... */
INLINE vec NAME(pool_block)(const int kind, const int stride, const int taps, const int edge,
                            const NAME(pool_window) * w, pool_pitch pitch, ptrdiff_t c, ptrdiff_t width, real scale) {
  vec v[3];
  NAME(pool_stack)(kind, edge, taps, w, pitch, c, stride == 1 ? 1 : VLEN, width, scale, v);
  if (stride == 2) {
    const vec even = NAME(even_lanes)(v[0], v[1]);
    v[1] = NAME(odd_lanes)(v[0], v[1]);
    v[0] = even;
    if (taps == 3) v[2] = NAME(next_lanes)(even, v[2]);
  }
  const vec two = NAME(pool_join)(kind, v[0], v[1]);
  return taps == 2 ? two : NAME(pool_join)(kind, two, v[2]);
}

/* The same of a maximum with indices; a window's elements are met by rising index. */
INLINE vec NAME(pool_block_indices)(const int stride, const int taps, const int edge, const NAME(pool_window) * w,
                                    pool_pitch pitch, ptrdiff_t c, ptrdiff_t width, ivec *index) {
  const vec neutral = NAME(splat)(-(real)INFINITY);
  const ivec column = NAME(lane_numbers)() * stride + NAME(splat_index)(c);
  vec best = neutral;
  *index = (column & ~(column < 0)) + NAME(splat_index)(w->index);
  for (ptrdiff_t r = 0; r < w->planes * w->rows; r++) {
    const ptrdiff_t row = NAME(pool_row)(w, pitch, r);
    const ivec here = column + NAME(splat_index)(w->index + row);
    vec v[3];
    UNROLL for (int i = 0; i < taps; i++) v[i] =
        NAME(pool_peek)(edge, w->at + row, c + i * (stride == 1 ? 1 : VLEN), width, neutral);
    if (stride == 2) {
      const vec even = NAME(even_lanes)(v[0], v[1]);
      v[1] = NAME(odd_lanes)(v[0], v[1]);
      v[0] = even;
      if (taps == 3) v[2] = NAME(next_lanes)(even, v[2]);
    }
    UNROLL for (int i = 0; i < taps; i++) NAME(take_larger)(&best, index, v[i], here + i);
  }
  return best;
}

/* Outputs o .. o + VLEN - 1 (n < VLEN: n of them) of some rows. */
INLINE void NAME(pool_stripe)(const int kind, const int stride, const int taps, const int indices, const int edge,
                              const fastconv_pool *p, const NAME(pool_window) * windows, ptrdiff_t rows, ptrdiff_t o,
                              ptrdiff_t n, real *y, int64_t *y_index) {
  const fastconv_windows *w = &p->axis[2];
  const real scale = kind == FASTCONV_POOL_SPREAD ? *(const real *)w->scale : 1;
  const vec divisor = kind == FASTCONV_POOL_MEAN ? NAME(load_or)((const real *)w->scale + o, n, 1) : (vec){0};
  const ptrdiff_t c = o * stride - w->before, out = w->out, width = w->in;
  const pool_pitch pitch = pool_pitch_of(p);
  for (ptrdiff_t r = 0; r < rows; r++) {
    vec v;
    if (indices) {
      ivec index;
      v = NAME(pool_block_indices)(stride, taps, edge, windows + r, pitch, c, width, &index);
      NAME(store_some_indices)(y_index + r * out, index, n);
    } else {
      v = NAME(pool_block)(kind, stride, taps, edge, windows + r, pitch, c, width, scale);
    }
    if (kind == FASTCONV_POOL_MEAN) v /= divisor * NAME(pool_divisor)(windows + r);
    NAME(store_some)(y + r * out, v, n);
  }
}

INLINE void NAME(pool_stripes)(const int kind, const int stride, const int taps, const int indices,
                               const fastconv_pool *p, const NAME(pool_window) * windows, ptrdiff_t rows, real *y,
                               int64_t *y_index) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t reach = stride == 1 ? VLEN + taps - 1 : taps * VLEN;
  for (ptrdiff_t o = 0; o < w->out; o += VLEN) {
    const ptrdiff_t c = o * stride - w->before, n = w->out - o;
    int64_t *index = indices ? y_index + o : NULL;
    if (c < 0 || c + reach > w->in || n < VLEN)
      NAME(pool_stripe)(kind, stride, taps, indices, 1, p, windows, rows, o, n, y + o, index);
    else NAME(pool_stripe)(kind, stride, taps, indices, 0, p, windows, rows, o, VLEN, y + o, index);
  }
}

/* The adjoint of stride 2, outputs i .. i + 2 * VLEN - 1 (n of them), i even: those of one parity see one tap, those of
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
    NAME(pool_stack)(FASTCONV_POOL_SPREAD, edge, 2, windows + r, pitch, i / 2, before ? 1 : -1, width, scale, v);
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

static void NAME(pool_some_rows)(const fastconv_pool *p, const NAME(pool_window) * windows, ptrdiff_t rows, real *y,
                                 int64_t *index) {
  const fastconv_windows *w = &p->axis[2];
#define STRIPES(KIND, INDICES)                                                             \
  switch (w->stride * 4 + w->taps) {                                                       \
    case 4 + 2:                                                                            \
      NAME(pool_stripes)(FASTCONV_POOL_##KIND, 1, 2, INDICES, p, windows, rows, y, index); \
      break;                                                                               \
    case 4 + 3:                                                                            \
      NAME(pool_stripes)(FASTCONV_POOL_##KIND, 1, 3, INDICES, p, windows, rows, y, index); \
      break;                                                                               \
    case 8 + 2:                                                                            \
      NAME(pool_stripes)(FASTCONV_POOL_##KIND, 2, 2, INDICES, p, windows, rows, y, index); \
      break;                                                                               \
    default:                                                                               \
      NAME(pool_stripes)(FASTCONV_POOL_##KIND, 2, 3, INDICES, p, windows, rows, y, index); \
  }
  if (index) {
    STRIPES(MAX, 1)
  } else if (p->kind == FASTCONV_POOL_MAX) {
    STRIPES(MAX, 0)
  } else if (p->kind == FASTCONV_POOL_MEAN) {
    STRIPES(MEAN, 0)
  } else if (w->stride < 0) {
    NAME(pool_stripes_doubled)(p, windows, rows, y);
  } else if (w->taps == 2) {
    NAME(pool_stripes)(FASTCONV_POOL_SPREAD, 1, 2, 0, p, windows, rows, y, NULL);
  } else {
    NAME(pool_stripes)(FASTCONV_POOL_SPREAD, 1, 3, 0, p, windows, rows, y, NULL);
  }
#undef STRIPES
}

static void NAME(pool_registers)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const ptrdiff_t out = p->axis[2].out, fit = 2 * POOL_BUFFER / (p->axis[2].in + out);
  const ptrdiff_t batch = fit < 1 ? 1 : fit < POOL_STRIPE_ROWS ? fit : POOL_STRIPE_ROWS;
  NAME(pool_window) windows[POOL_STRIPE_ROWS];
  pool_place at = pool_place_of(p, part->begin);
  for (ptrdiff_t row = part->begin; row < part->end; row += batch) {
    const ptrdiff_t rows = part->end - row < batch ? part->end - row : batch, to = (row - part->begin) * out;
    for (ptrdiff_t r = 0; r < rows; r++) {
      windows[r] = NAME(pool_look)(p, (const real *)part->x, at);
      pool_advance(p, &at);
    }
    NAME(pool_some_rows)(p, windows, rows, (real *)part->y + to, part->indices ? part->indices + to : NULL);
  }
}
