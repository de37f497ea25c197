/* The adjoint of a maximum: each gradient to the element that won.
 *
 * channels_first scatters: one addition an output. channels_last compares: a vector of channels has as many winners as
 * lanes, all in one small window, so each of the window's pixels takes the lanes whose index it is.
 */

/* Input rows of a plane, counted over [D][H], that output row (d, h) and all before it reach; never falls. */
INLINE ptrdiff_t NAME(route_reach)(const fastconv_pool *p, pool_place at) {
  const int deep = p->axis[0].in > 1 || p->axis[0].out > 1;
  const fastconv_windows *w = &p->axis[deep ? 0 : 1];
  const ptrdiff_t o = deep ? at.d : at.h;
  ptrdiff_t low, end = pool_columns(w, o, o + 1, &low) + low;
  return (deep ? p->axis[1].in : 1) * (end < 0 ? 0 : end > w->in ? w->in : end);
}

INLINE void NAME(route_clear)(const fastconv_pool *p, const fastconv_pool_rows *part, real *plane, ptrdiff_t row,
                              ptrdiff_t stop) {
  const ptrdiff_t pixels = p->axis[2].in;
  if (part->channels == p->channels) {
    if (stop > row)
      memset(plane + row * pixels * p->channels, 0, (size_t)((stop - row) * pixels * p->channels) * sizeof(real));
    return;
  }
  for (ptrdiff_t i = row * pixels; i < stop * pixels; i++)
    memset(plane + i * p->channels + part->channel, 0, (size_t)part->channels * sizeof(real));
}

/* plane[index[i]] += grad_y[i], or = where all are apart; returns whether an index was outside of the plane. */
INLINE int NAME(route_scatter)(const int apart, real *plane, ptrdiff_t pixels, const real *grad_y, const int64_t *index,
                               ptrdiff_t n) {
  int wrong = 0;
  for (ptrdiff_t i = 0; i < n; i++) {
    if ((uint64_t)index[i] >= (uint64_t)pixels) wrong = 1;
    else if (apart) plane[index[i]] = grad_y[i];
    else plane[index[i]] += grad_y[i];
  }
  return wrong;
}

INLINE int NAME(route_check)(const int64_t *index, ptrdiff_t n, ptrdiff_t pixels) {
  int wrong = 0;
  for (ptrdiff_t i = 0; i < n; i++) wrong |= (uint64_t)index[i] >= (uint64_t)pixels;
  return wrong;
}

/* One window, n <= VLEN channels from c on: where a pixel's index is the winner's it takes the gradient. */
INLINE void NAME(route_window)(const int apart, const fastconv_pool *p, const NAME(pool_window) * window, real *plane,
                               ptrdiff_t o, ptrdiff_t c, ptrdiff_t n, vec grad, ivec winner) {
  const fastconv_windows *w = &p->axis[2];
  const pool_pitch pitch = pool_pitch_of(p);
  for (ptrdiff_t d = 0; d < window->planes; d++)
    for (ptrdiff_t h = 0; h < window->rows; h++) {
      ptrdiff_t index = window->index + d * pitch.d + h * pitch.h + w->first[o];
      real *to = plane + index * p->channels + c;
      for (ptrdiff_t t = 0; t < w->count[o]; t++, index += w->step, to += w->step * p->channels) {
        const vec share = NAME(select)(winner == NAME(splat_index)(index), grad, (vec){0});
        NAME(store_some)(to, apart ? share : NAME(load_some)(to, n) + share, n);
      }
    }
}

INLINE int NAME(route_pixels)(const int apart, const fastconv_pool *p, const fastconv_pool_rows *part,
                              const NAME(pool_window) * window, real *plane, const real *grad_y, const int64_t *index) {
  int wrong = 0;
  for (ptrdiff_t o = 0; o < p->axis[2].out; o++, grad_y += p->channels, index += p->channels) {
    wrong |= NAME(route_check)(index, part->channels, p->axis[0].in * p->axis[1].in * p->axis[2].in);
    for (ptrdiff_t c = 0; c < part->channels; c += VLEN) {
      const ptrdiff_t n = part->channels - c < VLEN ? part->channels - c : VLEN;
      int64_t lanes[VLEN] = {0};
      if (n < VLEN) memcpy(lanes, index + c, (size_t)n * sizeof *lanes);
      NAME(route_window)(apart, p, window, plane, o, part->channel + c, n, NAME(load_some)(grad_y + c, n),
                         NAME(load_index)(n < VLEN ? lanes : index + c));
    }
  }
  return wrong;
}

static int NAME(pool_route)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const ptrdiff_t rows = p->axis[0].in * p->axis[1].in, pixels = rows * p->axis[2].in, out = p->axis[2].out;
  const real *grad_y = (const real *)part->x + part->channel;
  const int64_t *index = part->indices + part->channel;
  pool_place at = pool_place_of(p, part->begin);
  int wrong = 0;
  ptrdiff_t reached = 0;
  if (at.d || at.h) {
    const ptrdiff_t last = (part->begin - 1) % (p->axis[0].out * p->axis[1].out);
    reached = NAME(route_reach)(p, (pool_place){.d = last / p->axis[1].out, .h = last % p->axis[1].out});
  }
  for (ptrdiff_t row = part->begin; row < part->end; row++) {
    real *plane = (real *)part->y + at.plane * pixels * p->channels;
    const int last = at.d + 1 == p->axis[0].out && at.h + 1 == p->axis[1].out;
    const ptrdiff_t reach = last ? rows : NAME(route_reach)(p, at);
    if (!p->cover || p->channels == 1) NAME(route_clear)(p, part, plane, reached, reach);
    reached = last ? 0 : reach;
    if (p->channels == 1) {
      if (p->apart) wrong |= NAME(route_scatter)(1, plane, pixels, grad_y, index, out);
      else wrong |= NAME(route_scatter)(0, plane, pixels, grad_y, index, out);
    } else {
      const NAME(pool_window) window = NAME(pool_look)(p, (const real *)part->y, at);
      if (p->apart) wrong |= NAME(route_pixels)(1, p, part, &window, plane, grad_y, index);
      else wrong |= NAME(route_pixels)(0, p, part, &window, plane, grad_y, index);
    }
    pool_advance(p, &at, 1);
    grad_y += out * p->channels;
    index += out * p->channels;
  }
  return wrong;
}
