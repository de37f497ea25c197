/* Maxima of channels_first over 3 neighbours, or 3 x 3, that keep the size (stride 1, "same" padding), in registers: a
 * plane is one line, read once for each row of the windows and written in whole vectors whatever a row's length. What
 * lies beyond the plane is not read, and what lies beyond a row's ends is left out lane by lane.
 */

/* Whether outputs of an axis see their own place and one to each side. */
INLINE int NAME(pool_sees_neighbours)(const fastconv_windows *w) {
  return w->stride == 1 && w->step == 1 && w->taps == 3 && w->before == 1 && w->out == w->in;
}

INLINE int NAME(pool_is_plane)(const fastconv_pool *p, int indices) {
  const fastconv_windows *d = &p->axis[0], *h = &p->axis[1], *w = &p->axis[2];
  if (p->kind != FASTCONV_POOL_MAX || indices || d->in != 1 || d->out != 1 || pool_most(d) != 1) return 0;
  if (!NAME(pool_sees_neighbours)(w) || w->in > POOL_BUFFER) return 0;
  return NAME(pool_sees_neighbours)(h) || (h->in == 1 && h->out == 1 && pool_most(h) == 1);
}

/* Elements i .. i + VLEN - 1 of a plane and those a row above and below; `edge`: some may lie beyond it. */
INLINE vec NAME(pool_plane_rows)(const int rows, const int edge, const real *x, ptrdiff_t i, ptrdiff_t width,
                                 ptrdiff_t size) {
  const vec beyond = NAME(splat)(-(real)INFINITY);
  vec v[3];
  UNROLL for (int r = 0; r < rows; r++) {
    const ptrdiff_t at = i + (r - rows / 2) * width;
    v[r] = edge ? NAME(load_between)(x + at, -at, size - at, beyond) : NAME(load)(x + at);
    OPAQUE(v[r]); /* else GCC loads it again wherever it is compared and joined */
  }
  return rows == 1 ? v[0] : NAME(larger_of_three)(v[0], v[1], v[2]);
}

/* Outputs from .. stop - 1 of a plane, whole rows; columns[j] is the column of element j of a row, and so on beyond its
 * end. */
INLINE void NAME(pool_plane_part)(const int rows, const real *x, real *y, ptrdiff_t width, ptrdiff_t size,
                                  ptrdiff_t from, ptrdiff_t stop, const ilane *columns) {
  const ptrdiff_t next = VLEN % width, above = rows / 2 * width;
  const ivec low = NAME(splat_index)(0), high = NAME(splat_index)(width - 1);
  const vec beyond = NAME(splat)(-(real)INFINITY);
  ptrdiff_t first = 0;
  vec v[2] = {NAME(pool_plane_rows)(rows, 1, x, from - 1, width, size)};
  for (ptrdiff_t i = from; i < stop; i += VLEN, v[0] = v[1]) {
    const ptrdiff_t behind = i + VLEN - 1;
    const ivec column = (ivec)NAME(load)((const real *)(columns + first));
    PREFETCH(x + i + above + POOL_AHEAD);
    v[1] = behind < above || behind + VLEN + above > size ? NAME(pool_plane_rows)(rows, 1, x, behind, width, size)
                                                          : NAME(pool_plane_rows)(rows, 0, x, behind, width, size);
    const vec left = NAME(where_less)(low, column, v[0], beyond), own = NAME(next_lanes)(v[0], v[1]);
    const vec right = NAME(where_less)(column, high, NAME(second_lanes)(v[0], v[1]), beyond);
    NAME(store_some)(y + i, NAME(larger_of_three)(left, own, right), stop - i);
    first += next;
    first -= first >= width ? width : 0;
  }
}

static void NAME(pool_plane)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const ptrdiff_t high = p->axis[1].in, width = p->axis[2].in, size = high * width;
  const real *x = (const real *)part->x + part->begin / high * size;
  real *y = (real *)part->y - part->begin % high * width;
  ilane columns[POOL_BUFFER + VLEN];
  NAME(pool_number_columns)(width, columns);
  for (ptrdiff_t row = part->begin, rows; row < part->end; row += rows, x += size, y += size) {
    const ptrdiff_t from = row % high, left = part->end - row;
    rows = left < high - from ? left : high - from;
    if (high > 1) NAME(pool_plane_part)(3, x, y, width, size, from * width, (from + rows) * width, columns);
    else NAME(pool_plane_part)(1, x, y, width, size, from * width, (from + rows) * width, columns);
  }
}
