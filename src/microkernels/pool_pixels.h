/* Pools of channels_last: lanes are channels. A window is read pixel by pixel in the order of its flat indices, so that
 * the first of equals and the last NaN win by themselves. Where that wastes loads or lanes, a buffer of joined rows is
 * joined to itself, some pixels further on. */

#define POOL_PIXEL 4                        /* vectors of channels at once */
#define POOL_PIXEL_WIDE (VEC_REGISTERS / 2) /* where there are as many, which makes longer runs of memory */

/* Elements: the next pixels are asked for so far ahead, since those far apart are no stream that hardware sees. */
#define POOL_PIXELS_AHEAD ((ptrdiff_t)(2048 / sizeof(real)))

/* Output o's nv vectors of channels from c on, or its `tail` < VLEN elements. */
INLINE void NAME(pool_pixel)(const int kind, const int indices, const int nv, const ptrdiff_t tail,
                             const fastconv_pool *p, const NAME(pool_window) * window, ptrdiff_t o, ptrdiff_t c,
                             real *y, int64_t *y_index, const real *slope) {
  const fastconv_windows *w = &p->axis[2];
  const real *scale = (const real *)w->scale;
  const ptrdiff_t count = w->count[o], first = w->first[o], step = w->step, n = tail ? tail : VLEN;
  vec sums[POOL_PIXEL_WIDE];
  ivec best[POOL_PIXEL];
  UNROLL for (int i = 0; i < nv; i++) {
    sums[i] = NAME(splat)(NAME(pool_neutral)(kind));
    if (indices) best[i] = NAME(splat_index)(window->index + first);
  }
  const pool_pitch pitch = pool_pitch_of(p);
  const ptrdiff_t next = step * p->channels, ahead = next > POOL_PIXELS_AHEAD ? next : POOL_PIXELS_AHEAD;
  const real *plane = window->at + first * p->channels + c;
  for (ptrdiff_t d = 0; d < window->planes; d++, plane += pitch.d * p->channels) {
    const real *row = plane;
    for (ptrdiff_t h = 0; h < window->rows; h++, row += pitch.h * p->channels) {
      const real *x = row;
      const real share = kind == FASTCONV_POOL_SPREAD ? window->scale[0][d] * window->scale[1][h] : 1;
      ptrdiff_t index = window->index + d * pitch.d + h * pitch.h + first;
      for (ptrdiff_t t = 0; t < count; t++, x += step * p->channels, index += step)
        UNROLL for (int i = 0; i < nv; i++) {
          PREFETCH(x + i * VLEN + ahead);
          vec v = NAME(pool_term)(kind, p, tail ? NAME(load_tail)(x, tail) : NAME(load)(x + i * VLEN));
          if (kind == FASTCONV_POOL_SPREAD) v *= share * scale[first + t];
          if (indices) NAME(take_larger)(&sums[i], &best[i], v, NAME(splat_index)(index));
          else sums[i] = NAME(pool_join)(kind, sums[i], v);
        }
    }
  }
  const int divided = kind != FASTCONV_POOL_MAX && kind != FASTCONV_POOL_SPREAD;
  const vec by = NAME(splat)(divided ? NAME(pool_divisor)(window) * scale[o] : 1);
  UNROLL for (int i = 0; i < nv; i++) {
    if (divided) sums[i] = NAME(pool_finish)(p, sums[i], by, slope ? slope + i * VLEN : NULL, n);
    NAME(store_some)(y + i * VLEN, sums[i], n);
    if (indices) NAME(store_some_indices)(y_index + i * VLEN, best[i], n);
  }
}

/* Outputs of a row, n channels from c on. */
INLINE void NAME(pool_pixels_kind)(const int kind, const int indices, const fastconv_pool *p,
                                   const NAME(pool_window) * window, const NAME(pool_outputs) * to, ptrdiff_t c,
                                   ptrdiff_t n) {
#define PIXEL(NV, TAIL) \
  NAME(pool_pixel)(kind, indices, NV, TAIL, p, window, o, c + j, y + j, index + j, slope ? slope + j : NULL)
  real *y = to->y;
  int64_t *index = to->index;
  const real *slope = to->slope;
  for (ptrdiff_t o = to->o; o < to->stop; o++) {
    ptrdiff_t j = 0;
    if (!indices)
      for (; j + POOL_PIXEL_WIDE * VLEN <= n; j += POOL_PIXEL_WIDE * VLEN) PIXEL(POOL_PIXEL_WIDE, 0);
    for (; j + POOL_PIXEL * VLEN <= n; j += POOL_PIXEL * VLEN) PIXEL(POOL_PIXEL, 0);
    for (; j + VLEN <= n; j += VLEN) PIXEL(1, 0);
    if (j < n) PIXEL(1, n - j);
    y += p->channels;
    if (indices) index += p->channels;
    if (slope) slope += p->channels;
  }
#undef PIXEL
}

static void NAME(pool_pixels)(const fastconv_pool *p, const NAME(pool_window) * window, const NAME(pool_outputs) * to,
                              ptrdiff_t c, ptrdiff_t n) {
  switch (to->index ? -1 : p->kind) {
    case -1:
      NAME(pool_pixels_kind)(FASTCONV_POOL_MAX, 1, p, window, to, c, n);
      break;
    case FASTCONV_POOL_MAX:
      NAME(pool_pixels_kind)(FASTCONV_POOL_MAX, 0, p, window, to, c, n);
      break;
    case FASTCONV_POOL_MEAN:
      NAME(pool_pixels_kind)(FASTCONV_POOL_MEAN, 0, p, window, to, c, n);
      break;
    case FASTCONV_POOL_SQUARE:
      NAME(pool_pixels_kind)(FASTCONV_POOL_SQUARE, 0, p, window, to, c, n);
      break;
    case FASTCONV_POOL_POWER:
      NAME(pool_pixels_kind)(FASTCONV_POOL_POWER, 0, p, window, to, c, n);
      break;
    default:
      NAME(pool_pixels_kind)(FASTCONV_POOL_SPREAD, 0, p, window, to, c, n);
  }
}

/* Whether to join rows in a line: a pixel fills no vector, or that saves loads, although the line is stored. */
INLINE int NAME(pool_lines_pixels)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t rows = pool_most(&p->axis[0]) * pool_most(&p->axis[1]), reach = (w->taps - 1) * w->step + 1;
  if (part->indices || p->kind == FASTCONV_POOL_SPREAD || w->stride <= 0) return 0;
  if (part->channels != p->channels || reach * p->channels > POOL_BUFFER) return 0;
  return p->channels < VLEN || rows * w->taps > (rows + 1) * w->stride + w->taps;
}

INLINE ptrdiff_t NAME(pool_pixel_chunk)(const fastconv_pool *p) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t reach = (w->taps - 1) * w->step + 1;
  const ptrdiff_t chunk = (2 * POOL_BUFFER / p->channels - reach) / w->stride + 1;
  return chunk < w->out ? chunk : w->out;
}

/* One vector of a line, of n lanes: y = its taps joined. */
INLINE void NAME(pool_pixels_vector)(const int kind, const int taps, const fastconv_pool *p, const real *line,
                                     ptrdiff_t step, real *y, const real *slope, vec divisor, ptrdiff_t n) {
  vec v = NAME(load)(line);
  if (taps == 3) {
    vec last = NAME(load)(line + 2 * step);
    OPAQUE(last);
    v = NAME(pool_join_three)(kind, v, NAME(load)(line + step), last);
  }
  for (ptrdiff_t t = 1; !taps && t < p->axis[2].taps; t++) v = NAME(pool_join)(kind, v, NAME(load)(line + t * step));
  if (kind != FASTCONV_POOL_MAX) v = NAME(pool_finish)(p, v, divisor, slope, n);
  NAME(store_some)(y, v, n);
}

/* y[j] = the taps joined of n elements of a line. */
INLINE void NAME(pool_pixels_across)(const int kind, const int taps, const fastconv_pool *p, const real *line, real *y,
                                     const real *slope, vec divisor, ptrdiff_t n) {
  const ptrdiff_t step = p->axis[2].step * p->channels, whole = n / VLEN * VLEN;
#define VECTOR(J, N) \
  NAME(pool_pixels_vector)(kind, taps, p, line + (J), step, y + (J), slope ? slope + (J) : NULL, divisor, N)
  for (ptrdiff_t j = 0; j < whole; j += VLEN) {
    PREFETCH_WRITE(y + j + POOL_AHEAD);
    VECTOR(j, VLEN);
  }
  if (whole == n) return;
  if (whole) VECTOR(n - VLEN, VLEN);
  else VECTOR(0, n);
#undef VECTOR
}

INLINE void NAME(pool_pixels_empty)(const int kind, const int taps, const fastconv_pool *p, const NAME(pool_lines) * b,
                                    const NAME(pool_outputs) * to, real divisor) {
  const fastconv_windows *w = &p->axis[2];
  const int flat = kind == FASTCONV_POOL_MAX && w->stride == 1; /* one long pixel */
  const ptrdiff_t pixels = flat ? 1 : to->stop - to->o, channels = p->channels;
  for (ptrdiff_t o = 0; o < pixels; o++) {
    const real *slope = to->slope ? to->slope + o * channels : NULL;
    const vec by = NAME(splat)(flat ? 1 : divisor * ((const real *)w->scale)[to->o + o]);
    NAME(pool_pixels_across)(kind, taps, p, b->value + o * w->stride * channels, to->y + o * channels, slope, by,
                             flat ? (to->stop - to->o) * channels : channels);
  }
}

/* As pool_pixels over all channels, by way of a line; *at advances. */
static void NAME(pool_pixels_by_lines)(const fastconv_pool *p, const real *x, real *value, pool_place *at,
                                       const NAME(pool_outputs) * to) {
  real divisor = 1;
  NAME(pool_lines) b = {.value = value};
  NAME(pool_rule)(p, &b, to->o, to->stop, 1);
  NAME(pool_fill)(p, x, &b, at, 1, &divisor);
  if (p->kind != FASTCONV_POOL_MAX) NAME(pool_pixels_empty)(FASTCONV_POOL_MEAN, 0, p, &b, to, divisor);
  else if (p->axis[2].taps == 3) NAME(pool_pixels_empty)(FASTCONV_POOL_MAX, 3, p, &b, to, divisor);
  else NAME(pool_pixels_empty)(FASTCONV_POOL_MAX, 0, p, &b, to, divisor);
}

static void NAME(pool_channels_last)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const ptrdiff_t out = p->axis[2].out;
  const int lines = NAME(pool_lines_pixels)(p, part);
  const ptrdiff_t chunk = lines ? NAME(pool_pixel_chunk)(p) : out;
  pool_place at = pool_place_of(p, part->begin), next = at;
  for (ptrdiff_t row = part->begin; row < part->end; row++, at = next) {
    const NAME(pool_window) window = NAME(pool_look)(p, (const real *)part->x, at);
    pool_advance(p, &next, 1);
    for (ptrdiff_t o = 0; o < out; o += chunk) {
      const ptrdiff_t to = ((row - part->begin) * out + o) * p->channels + part->channel;
      const NAME(pool_outputs) outputs = NAME(pool_outputs_at)(part, to, o, o + chunk < out ? o + chunk : out);
      pool_place here = at;
      if (lines) NAME(pool_pixels_by_lines)(p, (const real *)part->x, (real *)part->scratch, &here, &outputs);
      else NAME(pool_pixels)(p, &window, &outputs, part->channel, part->channels);
    }
  }
}
