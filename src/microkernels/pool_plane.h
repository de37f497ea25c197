/* Maxima of channels_first over 3 neighbours, or 3 x 3, that keep the size (stride 1, "same" padding), in registers:
 * VLEN columns go down the rows, and of each row the neighbours are joined once, for the three windows that see it.
 * Where a row is no whole number of vectors the last one overlaps the one before; lanes beyond a row's ends are not
 * read.
 */

#define POOL_STRIP (4 * POOL_BUFFER) /* elements of rows that L1 keeps while strips of columns go down them */

/* Whether outputs of an axis see their own place and one to each side. */
INLINE int NAME(pool_sees_neighbours)(const fastconv_windows *w) {
  return w->stride == 1 && w->step == 1 && w->taps == 3 && w->before == 1 && w->out == w->in;
}

INLINE int NAME(pool_is_plane)(const fastconv_pool *p, int indices) {
  const fastconv_windows *d = &p->axis[0], *h = &p->axis[1], *w = &p->axis[2];
  if (p->kind != FASTCONV_POOL_MAX || indices || d->in != 1 || d->out != 1 || pool_most(d) != 1) return 0;
  if (!NAME(pool_sees_neighbours)(w)) return 0;
  return NAME(pool_sees_neighbours)(h) || (h->in == 1 && h->out == 1 && pool_most(h) == 1);
}

/* Columns c .. c + VLEN - 1 of a row, each with those beside it; `edge`: some may lie beyond the row. */
INLINE vec NAME(pool_neighbours)(const int edge, const real *row, ptrdiff_t c, ptrdiff_t width) {
  const vec beyond = NAME(splat)(-(real)INFINITY);
  vec v[3];
  UNROLL for (int i = 0; i < 3; i++) {
    const ptrdiff_t at = c + i - 1;
    v[i] = edge ? NAME(load_between)(row + at, -at, width - at, beyond) : NAME(load)(row + at);
    OPAQUE(v[i]); /* else GCC loads it again wherever it is compared and joined */
  }
  return NAME(larger_of_three)(v[0], v[1], v[2]);
}

/* Rows from .. stop - 1 of a plane's outputs, columns c .. c + n - 1. */
INLINE void NAME(pool_plane_strip)(const int edge, const real *x, real *y, ptrdiff_t high, ptrdiff_t width,
                                   ptrdiff_t from, ptrdiff_t stop, ptrdiff_t c, ptrdiff_t n) {
  const vec beyond = NAME(splat)(-(real)INFINITY);
  const ptrdiff_t inner = stop < high ? stop : high - 1;
  const real *row = x + from * width;
  vec above = from ? NAME(pool_neighbours)(edge, row - width, c, width) : beyond;
  vec here = NAME(pool_neighbours)(edge, row, c, width);
  y += from * width + c;
  for (ptrdiff_t r = from; r < inner; r++, y += width) {
    row += width;
    PREFETCH(row + c + POOL_AHEAD);
    PREFETCH_WRITE(y + POOL_AHEAD);
    const vec below = NAME(pool_neighbours)(edge, row, c, width);
    const vec most = NAME(larger_of_three)(above, here, below);
    if (edge) NAME(store_some)(y, most, n);
    else NAME(store)(y, most);
    above = here;
    here = below;
  }
  if (stop > inner) NAME(store_some)(y, NAME(larger)(above, here), n);
}

static void NAME(pool_plane_rows)(const real *x, real *y, ptrdiff_t high, ptrdiff_t width, ptrdiff_t from,
                                  ptrdiff_t stop) {
  for (ptrdiff_t c = 0; c < width; c += VLEN) {
    if (width - c < VLEN && c > 0) c = width - VLEN;
    if (c > 0 && c + VLEN < width) NAME(pool_plane_strip)(0, x, y, high, width, from, stop, c, VLEN);
    else NAME(pool_plane_strip)(1, x, y, high, width, from, stop, c, width - c);
  }
}

static void NAME(pool_plane_line)(const real *x, real *y, ptrdiff_t width) {
  for (ptrdiff_t c = 0; c < width; c += VLEN) {
    if (c > 0 && c + VLEN < width) NAME(store)(y + c, NAME(pool_neighbours)(0, x, c, width));
    else NAME(store_some)(y + c, NAME(pool_neighbours)(1, x, c, width), width - c);
  }
}

static void NAME(pool_plane)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const ptrdiff_t high = p->axis[1].in, width = p->axis[2].in, size = high * width;
  const ptrdiff_t fit = POOL_STRIP / width, band = fit > 8 ? fit : 8;
  const real *x = (const real *)part->x + part->begin / high * size;
  real *y = (real *)part->y - part->begin % high * width;
  for (ptrdiff_t row = part->begin, stop; row < part->end; row = stop) {
    const ptrdiff_t from = row % high, left = high - from, rows = left < band ? left : band;
    stop = row + rows < part->end ? row + rows : part->end;
    if (p->axis[1].taps == 1) NAME(pool_plane_line)(x, y, width);
    else NAME(pool_plane_rows)(x, y, high, width, from, from + stop - row);
    if (from + stop - row == high) x += size, y += size;
  }
}
