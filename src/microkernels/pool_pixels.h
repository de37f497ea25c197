/* Pools of channels_last: lanes are channels. A window is read pixel by pixel in the order of its flat indices, so that
 * the first of equals and the last NaN win by themselves. Where that wastes loads or lanes, a buffer of joined rows is
 * joined to itself, some pixels further on. */

#define POOL_PIXEL 4 /* vectors of channels at once */

/* Output o's nv vectors of channels from c on, or its `tail` < VLEN elements. */
INLINE void NAME(pool_pixel)(const int kind, const int indices, const int nv, const ptrdiff_t tail,
                             const fastconv_pool *p, const NAME(pool_window) * window, ptrdiff_t o, ptrdiff_t c,
                             real *y, int64_t *y_index, const real *slope) {
  const fastconv_windows *w = &p->axis[2];
  const real *scale = (const real *)w->scale;
  const ptrdiff_t count = w->count[o], first = w->first[o], step = w->step, n = tail ? tail : VLEN;
  vec sums[POOL_PIXEL];
  ivec best[POOL_PIXEL];
  UNROLL for (int i = 0; i < nv; i++) {
    sums[i] = NAME(splat)(NAME(pool_neutral)(kind));
    if (indices) best[i] = NAME(splat_index)(window->index + first);
  }
  const pool_pitch pitch = pool_pitch_of(p);
  const real *plane = window->at + first * p->channels + c;
  for (ptrdiff_t d = 0; d < window->planes; d++, plane += pitch.d * p->channels) {
    const real *row = plane;
    for (ptrdiff_t h = 0; h < window->rows; h++, row += pitch.h * p->channels) {
      const real *x = row;
      const real share = kind == FASTCONV_POOL_SPREAD ? window->scale[0][d] * window->scale[1][h] : 1;
      ptrdiff_t index = window->index + d * pitch.d + h * pitch.h + first;
      for (ptrdiff_t t = 0; t < count; t++, x += step * p->channels, index += step)
        UNROLL for (int i = 0; i < nv; i++) {
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

/* Whether to join rows in a buffer: a pixel fills no vector, or the buffer saves half of the loads. */
INLINE int NAME(pool_joins_pixels)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t rows = pool_most(&p->axis[0]) * pool_most(&p->axis[1]), reach = (w->taps - 1) * w->step + 1;
  if (part->indices || p->kind == FASTCONV_POOL_SPREAD || w->stride <= 0) return 0;
  if (part->channels != p->channels || reach * p->channels > POOL_BUFFER) return 0;
  return p->channels < VLEN || rows * w->taps >= 2 * ((rows + w->taps) * w->stride);
}

INLINE ptrdiff_t NAME(pool_pixel_chunk)(const fastconv_pool *p) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t reach = (w->taps - 1) * w->step + 1;
  const ptrdiff_t chunk = (2 * POOL_BUFFER / p->channels - reach) / w->stride + 1;
  return chunk < w->out ? chunk : w->out;
}

/* value[j] = value[j] joined with what is one, two, ... taps further on, for j < n; writes up to a vector more. */
INLINE void NAME(pool_join_further)(const int kind, const fastconv_pool *p, real *value, ptrdiff_t n) {
  const ptrdiff_t step = p->axis[2].step * p->channels, taps = p->axis[2].taps;
  for (ptrdiff_t j = 0; j < n; j += VLEN) {
    vec v = NAME(load)(value + j);
    for (ptrdiff_t t = 1; t < taps; t++) v = NAME(pool_join)(kind, v, NAME(load)(value + j + t * step));
    NAME(store)(value + j, v);
  }
}

/* As pool_pixels over all channels, by way of a buffer. */
static void NAME(pool_pixels_joined)(const fastconv_pool *p, const NAME(pool_window) * window, real *value,
                                     const NAME(pool_outputs) * to) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t channels = p->channels;
  NAME(pool_buffer) b = {value, NULL, 0, 0};
  b.columns = pool_columns(w, to->o, to->stop, &b.low);
  NAME(pool_fill)(p, &b, window);
  const ptrdiff_t n = ((to->stop - 1 - to->o) * w->stride + 1) * channels;
  if (p->kind == FASTCONV_POOL_MAX) NAME(pool_join_further)(FASTCONV_POOL_MAX, p, value, n);
  else NAME(pool_join_further)(FASTCONV_POOL_MEAN, p, value, n);
  for (ptrdiff_t o = to->o; o < to->stop; o++) {
    const real *pixel = value + (o - to->o) * w->stride * channels;
    const ptrdiff_t at = (o - to->o) * channels;
    const vec divisor = NAME(splat)(to->divisor * ((const real *)w->scale)[o]);
    for (ptrdiff_t c = 0; c < channels; c += VLEN) {
      const real *slope = to->slope ? to->slope + at + c : NULL;
      const vec v = NAME(pool_finish)(p, NAME(load)(pixel + c), divisor, slope, channels - c);
      NAME(store_some)(to->y + at + c, v, channels - c);
    }
  }
}

static void NAME(pool_channels_last)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const ptrdiff_t out = p->axis[2].out;
  const int join = NAME(pool_joins_pixels)(p, part);
  const ptrdiff_t chunk = join ? NAME(pool_pixel_chunk)(p) : out;
  pool_place at = pool_place_of(p, part->begin);
  for (ptrdiff_t row = part->begin; row < part->end; row++) {
    const NAME(pool_window) window = NAME(pool_look)(p, (const real *)part->x, at);
    pool_advance(p, &at);
    for (ptrdiff_t o = 0; o < out; o += chunk) {
      const ptrdiff_t to = ((row - part->begin) * out + o) * p->channels + part->channel;
      const NAME(pool_outputs) outputs =
          NAME(pool_outputs_at)(part, to, o, o + chunk < out ? o + chunk : out, NAME(pool_divisor)(&window));
      if (join) NAME(pool_pixels_joined)(p, &window, (real *)part->scratch, &outputs);
      else NAME(pool_pixels)(p, &window, &outputs, part->channel, part->channels);
    }
  }
}
