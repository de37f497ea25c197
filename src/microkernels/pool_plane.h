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

typedef struct {
  const real *x;
  real *y;
  ptrdiff_t width, size; /* of a row and of the plane */
  const ilane *columns;  /* those of a row's elements, and so on beyond its end */
} NAME(pool_plane_of);

/* Outputs i .. i + VLEN - 1, of which n are stored. *before holds the rows joined from i - 1 on, *first the column. */
INLINE void NAME(pool_plane_vector)(const int rows, const int edge, const NAME(pool_plane_of) * p, ptrdiff_t i,
                                    ptrdiff_t n, vec *before, ptrdiff_t *first) {
  const vec beyond = NAME(splat)(-(real)INFINITY);
  const ivec column = (ivec)NAME(load)((const real *)(p->columns + *first));
  PREFETCH(p->x + i + rows / 2 * p->width + POOL_AHEAD);
  PREFETCH_WRITE(p->y + i + POOL_AHEAD);
  const vec after = NAME(pool_plane_rows)(rows, edge, p->x, i + VLEN - 1, p->width, p->size);
  const vec left = NAME(where_less)(NAME(splat_index)(0), column, *before, beyond);
  const vec own = NAME(next_lanes)(*before, after), next = NAME(second_lanes)(*before, after);
  const vec right = NAME(where_less)(column, NAME(splat_index)(p->width - 1), next, beyond);
  const vec most = NAME(larger_of_three)(left, own, right);
  if (edge) NAME(store_some)(p->y + i, most, n);
  else NAME(store)(p->y + i, most);
  *before = after;
  *first += VLEN % p->width;
  *first -= *first >= p->width ? p->width : 0;
}

/* Outputs from .. stop - 1 of a plane, whole rows. */
INLINE void NAME(pool_plane_part)(const int rows, const NAME(pool_plane_of) plane, ptrdiff_t from, ptrdiff_t stop) {
  const ptrdiff_t above = rows / 2 * plane.width, behind = plane.size - above - 2 * VLEN + 1;
  const ptrdiff_t last = stop - VLEN < behind ? stop - VLEN : behind;
  ptrdiff_t first = 0, i = from;
  vec before = NAME(pool_plane_rows)(rows, 1, plane.x, from - 1, plane.width, plane.size);
  for (; i < stop && i + VLEN - 1 < above; i += VLEN)
    NAME(pool_plane_vector)(rows, 1, &plane, i, stop - i, &before, &first);
  for (; i <= last; i += VLEN) NAME(pool_plane_vector)(rows, 0, &plane, i, VLEN, &before, &first);
  for (; i < stop; i += VLEN) NAME(pool_plane_vector)(rows, 1, &plane, i, stop - i, &before, &first);
}

static void NAME(pool_plane)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const ptrdiff_t high = p->axis[1].in, width = p->axis[2].in, size = high * width;
  ilane columns[POOL_BUFFER + VLEN];
  NAME(pool_plane_of)
  plane = {(const real *)part->x + part->begin / high * size, (real *)part->y - part->begin % high * width, width, size,
           columns};
  NAME(pool_number_columns)(width, columns);
  for (ptrdiff_t row = part->begin, rows; row < part->end; row += rows, plane.x += size, plane.y += size) {
    const ptrdiff_t from = row % high, left = part->end - row;
    rows = left < high - from ? left : high - from;
    if (high > 1) NAME(pool_plane_part)(3, plane, from * width, (from + rows) * width);
    else NAME(pool_plane_part)(1, plane, from * width, (from + rows) * width);
  }
}
