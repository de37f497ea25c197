/* Maxima of channels_first whose rows are as long as the input's (stride 1, "same" padding): the rows below each other
 * follow each other in memory, so they are joined and stored as one run, in whole vectors whatever a row's length. What
 * a window would see beyond its row's ends is left out lane by lane.
 */

INLINE int NAME(pool_is_same)(const fastconv_pool *p, int indices) {
  const fastconv_windows *w = &p->axis[2];
  return p->kind == FASTCONV_POOL_MAX && !indices && w->stride == 1 && w->out == w->in && w->taps > 1 &&
         w->before <= VLEN && (w->taps - 1) * w->step <= VLEN + w->before && w->in <= POOL_BUFFER;
}

/* The elements `to` columns on from each lane's, where those are in its row of `width`. */
INLINE vec NAME(pool_beside)(const real *line, ptrdiff_t to, ivec column, ptrdiff_t width) {
  const vec beyond = NAME(splat)(-(real)INFINITY);
  if (to < 0) return NAME(where_less)(NAME(splat_index)(-to - 1), column, NAME(load)(line + to), beyond);
  return NAME(where_less)(column, NAME(splat_index)(width - to), NAME(load)(line + to), beyond);
}

/* y[i] = the maximum of a window's columns for n elements of joined rows, VLEN of any value around them; columns[i] is
 * that of element i of a row, and so on beyond its end. `three`: the output's own column and those beside it. */
INLINE void NAME(pool_same_across)(const int three, const fastconv_windows *w, const ilane *columns, const real *line,
                                   ptrdiff_t n, real *y) {
  const ptrdiff_t width = w->in, next = VLEN % width;
  ptrdiff_t first = 0;
  for (ptrdiff_t i = 0; i < n; i += VLEN, line += VLEN, y += VLEN) {
    const ivec column = (ivec)NAME(load)((const real *)(columns + first));
    vec v;
    PREFETCH_WRITE(y + POOL_AHEAD);
    if (three) {
      vec own = NAME(load)(line);
      OPAQUE(own);
      v = NAME(larger_of_three)(NAME(pool_beside)(line, -1, column, width), own,
                                NAME(pool_beside)(line, 1, column, width));
    } else {
      v = NAME(pool_beside)(line, -w->before, column, width);
      for (ptrdiff_t t = 1; t < w->taps; t++)
        v = NAME(larger)(v, NAME(pool_beside)(line, t * w->step - w->before, column, width));
    }
    NAME(store_some)(y, v, n - i);
    first += next;
    first -= first >= width ? width : 0;
  }
}

static void NAME(pool_same)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const fastconv_windows *w = &p->axis[2];
  const ptrdiff_t batch = NAME(pool_batch)(w->in, w->out, w->out);
  const NAME(pool_lines) b = {.value = (real *)part->scratch + VLEN, .pitch = w->in, .stop = w->in};
  ilane columns[POOL_BUFFER + VLEN];
  pool_place at = pool_place_of(p, part->begin);
  for (ptrdiff_t i = 0, column = 0; i < w->in + VLEN; i++, column = column + 1 < w->in ? column + 1 : 0)
    columns[i] = (ilane)column;
  for (ptrdiff_t row = part->begin; row < part->end; row += batch) {
    const ptrdiff_t rows = part->end - row < batch ? part->end - row : batch;
    real *y = (real *)part->y + (row - part->begin) * w->out;
    NAME(pool_fill)(p, (const real *)part->x, &b, &at, rows, NULL);
    if (w->taps == 3 && w->before == 1 && w->step == 1) NAME(pool_same_across)(1, w, columns, b.value, rows * w->in, y);
    else NAME(pool_same_across)(0, w, columns, b.value, rows * w->in, y);
  }
}
