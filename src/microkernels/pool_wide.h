/* Pools of channels_first over long runs of columns: a window is joined lane by lane (its rows first, in a buffer, if
 * there are several), and the lanes of VLEN windows at once pair by pair: their outputs are neighbours in memory. */

/* Gathers, the other way for such strides, take a load for every lane and tap; a run takes one for many taps, and some
 * shuffles, or with indices a loop over the lanes. */
INLINE int NAME(pool_is_wide)(const fastconv_pool *p, int indices) {
  const fastconv_windows *w = &p->axis[2];
  if (p->kind == FASTCONV_POOL_SPREAD || w->step != 1) return 0;
  if (w->out == 1 || (indices && w->taps >= VLEN && w->taps <= 2 * w->stride)) return 1;
  return !indices && (w->stride == 0 || w->stride > 2) && (w->taps >= 5 || w->out <= VLEN);
}

/* Element j on of a run, whose other lanes beyond n are neutral. */
INLINE vec NAME(pool_reduce_tail)(const int kind, const fastconv_pool *p, const real *x, ptrdiff_t n) {
  const vec neutral = NAME(splat)(NAME(pool_neutral)(kind));
  if (kind != FASTCONV_POOL_POWER) return NAME(pool_term)(kind, p, NAME(load_or)(x, n, NAME(pool_neutral)(kind)));
  const vec last = NAME(pool_term)(kind, p, NAME(load_tail)(x, n)); /* whose neutral element becomes none */
  return NAME(select)(NAME(lane_numbers)() < NAME(splat_index)(n), last, neutral);
}

INLINE vec NAME(pool_reduce)(const int kind, const fastconv_pool *p, const real *x, ptrdiff_t n) {
  const vec neutral = NAME(splat)(NAME(pool_neutral)(kind));
  vec sum = neutral;
  ptrdiff_t j = 0;
  if (n >= 8 * VLEN) {
    vec sums[4];
    UNROLL for (int i = 0; i < 4; i++) sums[i] = NAME(pool_term)(kind, p, NAME(load)(x + i * VLEN));
    for (j = 4 * VLEN; j + 4 * VLEN <= n; j += 4 * VLEN)
      UNROLL for (int i = 0; i < 4; i++) sums[i] =
          NAME(pool_join)(kind, sums[i], NAME(pool_term)(kind, p, NAME(load)(x + j + i * VLEN)));
    sum = NAME(pool_join)(kind, NAME(pool_join)(kind, sums[0], sums[1]), NAME(pool_join)(kind, sums[2], sums[3]));
  }
  for (; j + VLEN <= n; j += VLEN) sum = NAME(pool_join)(kind, sum, NAME(pool_term)(kind, p, NAME(load)(x + j)));
  if (j == n) return sum;
  return NAME(pool_join)(kind, sum, NAME(pool_reduce_tail)(kind, p, x + j, n - j));
}

/* The lanes of VLEN windows joined, one result a lane: pairs of neighbours, of two windows at a time. */
INLINE vec NAME(pool_join_lanes)(const int kind, const vec *windows) {
  vec v[VLEN];
  UNROLL for (int i = 0; i < VLEN; i++) v[i] = windows[i];
  UNROLL for (int n = VLEN / 2; n > 0; n /= 2) UNROLL for (int i = 0; i < n; i++) v[i] =
      NAME(pool_join)(kind, NAME(even_lanes)(v[2 * i], v[2 * i + 1]), NAME(odd_lanes)(v[2 * i], v[2 * i + 1]));
  return v[0];
}

/* Whether planes are single rows: one after the other in memory, all of them alike. */
INLINE int NAME(pool_is_line)(const fastconv_pool *p) {
  return p->axis[0].in == 1 && p->axis[1].in == 1 && p->axis[0].out == 1 && p->axis[1].out == 1 &&
         p->axis[0].count[0] == 1 && p->axis[1].count[0] == 1;
}

typedef struct { /* windows that are joined but for their lanes, and the outputs before them */
  vec sums[VLEN];
  real divisors[VLEN];
  ptrdiff_t n, done;
} NAME(pool_pending);

INLINE void NAME(pool_flush)(const int kind, const fastconv_pool *p, const fastconv_pool_rows *part,
                             NAME(pool_pending) * w) {
  const real *slope = part->slope ? (const real *)part->slope + w->done : NULL;
  const vec v = NAME(pool_join_lanes)(kind, w->sums);
  NAME(store_some)((real *)part->y + w->done, NAME(pool_finish)(p, v, NAME(load)(w->divisors), slope, w->n), w->n);
  w->done += w->n;
  w->n = 0;
}

INLINE void NAME(pool_push)(const int kind, const fastconv_pool *p, const fastconv_pool_rows *part,
                            NAME(pool_pending) * w, vec sum, real divisor) {
  w->sums[w->n] = sum;
  if (kind != FASTCONV_POOL_MAX) w->divisors[w->n] = divisor;
  if (++w->n == VLEN) NAME(pool_flush)(kind, p, part, w);
}

/* VLEN windows of n elements, `in` apart, side by side: of short ones each alone would wait for its own sum. */
INLINE vec NAME(pool_reduce_many)(const int kind, const fastconv_pool *p, const real *x, ptrdiff_t in, ptrdiff_t n) {
  vec sums[VLEN];
  ptrdiff_t j = 0;
  UNROLL for (int i = 0; i < VLEN; i++) sums[i] = NAME(splat)(NAME(pool_neutral)(kind));
  for (; j + VLEN <= n; j += VLEN) UNROLL for (int i = 0; i < VLEN; i++) {
      PREFETCH(x + i * in + j + 2 * VLEN * in);
      sums[i] = NAME(pool_join)(kind, sums[i], NAME(pool_term)(kind, p, NAME(load)(x + i * in + j)));
    }
  if (j < n)
    UNROLL for (int i = 0; i < VLEN; i++) sums[i] =
        NAME(pool_join)(kind, sums[i], NAME(pool_reduce_tail)(kind, p, x + i * in + j, n - j));
  return NAME(pool_join_lanes)(kind, sums);
}

/* Such planes: global pools of any dimension, and those of one. */
INLINE void NAME(pool_wide_lines)(const int kind, const fastconv_pool *p, const fastconv_pool_rows *part,
                                  NAME(pool_pending) * pending) {
  const fastconv_windows *w = &p->axis[2];
  const real *scale = (const real *)w->scale,
             others = *(const real *)p->axis[0].scale * *(const real *)p->axis[1].scale;
  const real *line = (const real *)part->x + part->begin * w->in;
  const ptrdiff_t first = w->first[0], n = w->count[0], in = w->in;
  ptrdiff_t row = part->begin;
  for (; row + VLEN <= part->end && w->out == 1 && n < 8 * VLEN; row += VLEN, line += VLEN * in) {
    const vec v = NAME(pool_reduce_many)(kind, p, line + first, in, n);
    const real *slope = part->slope ? (const real *)part->slope + pending->done : NULL;
    NAME(store)((real *)part->y + pending->done, NAME(pool_finish)(p, v, NAME(splat)(others * scale[0]), slope, VLEN));
    pending->done += VLEN;
  }
  for (; row < part->end && w->out == 1; row++, line += in)
    NAME(pool_push)(kind, p, part, pending, NAME(pool_reduce)(kind, p, line + first, n), others * scale[0]);
  for (; row < part->end && w->out > 1; row++, line += in)
    for (ptrdiff_t o = 0; o < w->out; o++) {
      const vec sum = NAME(pool_reduce)(kind, p, line + w->first[o], w->count[o]);
      NAME(pool_push)(kind, p, part, pending, sum, others * scale[o]);
    }
}

INLINE void NAME(pool_wide_planes)(const int kind, const fastconv_pool *p, const fastconv_pool_rows *part,
                                   NAME(pool_pending) * pending) {
  const int joined = kind == FASTCONV_POOL_MAX ? FASTCONV_POOL_MAX : FASTCONV_POOL_MEAN;
  const fastconv_windows *w = &p->axis[2];
  const pool_pitch pitch = pool_pitch_of(p);
  real *buffer = (real *)part->scratch;
  pool_place at = pool_place_of(p, part->begin);
  for (ptrdiff_t row = part->begin; row < part->end; row++) {
    const NAME(pool_window) window = NAME(pool_look)(p, (const real *)part->x, at);
    const ptrdiff_t rows = window.planes * window.rows;
    const real *line = window.at, divisor = NAME(pool_divisor)(&window);
    const int buffered = rows > 1 && w->in <= POOL_BUFFER;
    pool_advance(p, &at, 1);
    if (buffered) NAME(pool_down)(kind, p, buffer, &(NAME(pool_run)){.first = window, .lines = 1, .n = w->in});
    for (ptrdiff_t o = 0; o < w->out; o++) {
      vec sum = buffered ? NAME(pool_reduce)(joined, p, buffer + w->first[o], w->count[o])
                         : NAME(pool_reduce)(kind, p, line + w->first[o], w->count[o]);
      for (ptrdiff_t r = 1; r < rows && !buffered; r++)
        sum = NAME(pool_join)(
            kind, sum, NAME(pool_reduce)(kind, p, line + NAME(pool_row)(&window, pitch, r) + w->first[o], w->count[o]));
      NAME(pool_push)(kind, p, part, pending, sum, divisor * ((const real *)w->scale)[o]);
    }
  }
}

INLINE void NAME(pool_wide_kind)(const int kind, const fastconv_pool *p, const fastconv_pool_rows *part) {
  NAME(pool_pending) pending = {0};
  if (NAME(pool_is_line)(p)) NAME(pool_wide_lines)(kind, p, part, &pending);
  else NAME(pool_wide_planes)(kind, p, part, &pending);
  if (pending.n) NAME(pool_flush)(kind, p, part, &pending);
}

static void NAME(pool_wide)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  switch (p->kind) {
    case FASTCONV_POOL_MAX:
      NAME(pool_wide_kind)(FASTCONV_POOL_MAX, p, part);
      break;
    case FASTCONV_POOL_MEAN:
      NAME(pool_wide_kind)(FASTCONV_POOL_MEAN, p, part);
      break;
    case FASTCONV_POOL_SQUARE:
      NAME(pool_wide_kind)(FASTCONV_POOL_SQUARE, p, part);
      break;
    default:
      NAME(pool_wide_kind)(FASTCONV_POOL_POWER, p, part);
  }
}

/* The best lane's value and index; `first` of a window of nothing but -inf. */
INLINE void NAME(pool_best_lane)(vec best, ivec best_index, ptrdiff_t first, real *y, int64_t *index) {
  real values[VLEN], top = -(real)INFINITY;
  ilane indices[VLEN], none[VLEN];
  NAME(store)(values, best);
  NAME(store)((real *)indices, (vec)best_index);
  NAME(store)((real *)none, (vec)NAME(no_index)());
  ilane at = none[0];
  for (int i = 0; i < VLEN; i++) {
    const int earlier = indices[i] < at;
    if (values[i] > top || (values[i] == top && earlier) || (values[i] != values[i] && !(top != top && earlier)))
      top = values[i], at = indices[i];
  }
  *y = top;
  *index = at == none[0] ? first : at;
}

static void NAME(pool_wide_indices)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const fastconv_windows *w = &p->axis[2];
  const pool_pitch pitch = pool_pitch_of(p);
  pool_place at = pool_place_of(p, part->begin);
  ptrdiff_t done = 0;
  for (ptrdiff_t row = part->begin; row < part->end; row++) {
    const NAME(pool_window) window = NAME(pool_look)(p, (const real *)part->x, at);
    const ptrdiff_t rows = window.planes * window.rows;
    pool_advance(p, &at, 1);
    for (ptrdiff_t o = 0; o < w->out; o++, done++) {
      vec best = NAME(splat)(-(real)INFINITY);
      ivec index = NAME(no_index)();
      for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t from = NAME(pool_row)(&window, pitch, r) + w->first[o];
        const real *run = window.at + from;
        ivec here = NAME(lane_numbers)() + NAME(splat_index)(window.index + from);
        for (ptrdiff_t j = 0; j < w->count[o]; j += VLEN, here += VLEN)
          NAME(take_larger)(&best, &index, NAME(load_or)(run + j, w->count[o] - j, -(real)INFINITY), here);
      }
      NAME(pool_best_lane)(best, index, window.index + w->first[o], (real *)part->y + done, part->indices + done);
    }
  }
}
