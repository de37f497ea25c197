/* Pools of channels_first whose windows are 2 or 3 neighbouring columns wide, 1 or 2 apart, and few rows high, in
 * registers: the rows of a vector of columns are joined, then neighbouring columns by shuffles. The last vector that an
 * output needs is the first of the next one's. Lanes beyond a row's ends are neutral and not read.
 */

/* Vectors of the outputs of a short row; of two planes twice as many, which is 1.2 times as fast there. */
#define POOL_STRIPES 2

INLINE int NAME(pool_fits_registers)(const fastconv_pool *p, int indices) {
  const fastconv_windows *w = &p->axis[2];
  if (indices || (p->kind != FASTCONV_POOL_MAX && p->kind != FASTCONV_POOL_MEAN)) return 0;
  if (w->step != 1 || w->stride < 1 || w->stride > 2 || w->taps < 2 || w->taps > 3 || w->before >= w->taps) return 0;
  return pool_most(&p->axis[0]) * pool_most(&p->axis[1]) <= POOL_GROUP;
}

/* How many of a window's last rows the one above has not seen, if windows are as far apart down as across and as many
 * rows as there can be are two of two planes. */
INLINE int NAME(pool_fresh)(const int rows, const int stride) {
  return rows == POOL_GROUP || rows < stride ? rows : stride;
}

/* Columns c .. c + VLEN - 1 of all rows joined; those outside of the row, where only `edge` may look, are neutral. */
INLINE vec NAME(pool_joined_rows)(const int kind, const int rows, const int edge, const real *const *at, ptrdiff_t c,
                                  ptrdiff_t width) {
  const vec neutral = NAME(splat)(NAME(pool_neutral)(kind));
  vec v[POOL_GROUP];
  UNROLL for (int r = 0; r < rows; r++) {
    v[r] = edge ? NAME(load_between)(at[r] + c, -c, width - c, neutral) : NAME(load)(at[r] + c);
    OPAQUE(v[r]); /* else GCC loads it again wherever it is compared and joined */
  }
  return rows ? NAME(pool_join_rows)(kind, rows, v) : neutral;
}

/* The windows of VLEN outputs from stride + 1 vectors of columns. */
INLINE vec NAME(pool_joined_columns)(const int kind, const int stride, const int taps, const vec *v) {
  if (stride == 1) {
    const vec next = NAME(next_lanes)(v[0], v[1]);
    if (taps == 2) return NAME(pool_join)(kind, v[0], next);
    return NAME(pool_join_three)(kind, v[0], next, NAME(second_lanes)(v[0], v[1]));
  }
  const vec even = NAME(even_lanes)(v[0], v[1]), odd = NAME(odd_lanes)(v[0], v[1]);
  if (taps == 2) return NAME(pool_join)(kind, even, odd);
  return NAME(pool_join_three)(kind, even, odd, NAME(next_lanes)(even, v[2]));
}

/* Windows one below the other, and where their outputs go. */
typedef struct {
  const real *at[POOL_GROUP]; /* the rows of the first window */
  ptrdiff_t lines, apart;     /* how many windows, and elements from one to the next */
  const real *scale[2];       /* divisors of a mean: of all of them, and one each */
  real *y;
} NAME(pool_column);

INLINE vec NAME(pool_registers_finish)(const int kind, const NAME(pool_column) * run, ptrdiff_t line, vec sum,
                                       vec scale) {
  return kind == FASTCONV_POOL_MEAN ? sum / (scale * (*run->scale[0] * run->scale[1][line])) : sum;
}

/* What windows 2 apart see beyond 2 * VLEN columns is one more: that of all rows joined, in every lane. */
INLINE vec NAME(pool_joined_last)(const int kind, const int rows, const real *const *at, ptrdiff_t c, ptrdiff_t width) {
  if (c >= width) return NAME(splat)(NAME(pool_neutral)(kind));
  vec v = rows ? NAME(splat)(at[0][c]) : NAME(splat)(NAME(pool_neutral)(kind));
  UNROLL for (int r = 1; r < rows; r++) v = NAME(pool_join)(kind, v, NAME(splat)(at[r][c]));
  return v;
}

/* Outputs o .. o + VLEN - 1 of a line, as far as there are so many, of rows that begin at `at`. */
INLINE void NAME(pool_registers_outputs)(const int kind, const int rows, const int stride, const int taps,
                                         const int edge, const fastconv_windows *w, const NAME(pool_column) * run,
                                         ptrdiff_t line, const real *const *at, ptrdiff_t o, real *y) {
  const int vectors = stride == 1 ? 2 : stride;
  const ptrdiff_t c = o * stride - w->before, width = w->in, n = w->out - o;
  const vec scale = kind == FASTCONV_POOL_MEAN ? NAME(load_or)((const real *)w->scale + o, n, 1) : (vec){0};
  vec v[3];
  UNROLL for (int i = 0; i < vectors; i++) v[i] = NAME(pool_joined_rows)(kind, rows, edge, at, c + i * VLEN, width);
  if (taps > stride && stride == 2) v[2] = NAME(pool_joined_last)(kind, rows, at, c + 2 * VLEN, width);
  UNROLL for (int r = rows - NAME(pool_fresh)(rows, stride); r < rows; r++) UNROLL for (int i = 0; i < stride; i++)
      PREFETCH(at[r] + c + i * VLEN + POOL_AHEAD);
  PREFETCH_WRITE(y + o + POOL_AHEAD);
  const vec sum = NAME(pool_registers_finish)(kind, run, line, NAME(pool_joined_columns)(kind, stride, taps, v), scale);
  if (edge) NAME(store_some)(y + o, sum, n);
  else NAME(store)(y + o, sum);
}

/* Whether those see columns beyond a row's ends, or are fewer. */
INLINE int NAME(pool_registers_edge)(const fastconv_windows *w, const int stride, ptrdiff_t o) {
  const int vectors = stride == 1 ? 2 : stride;
  const ptrdiff_t c = o * stride - w->before;
  return c < 0 || c + vectors * VLEN > w->in || o + VLEN > w->out;
}

/* They and those below them, in all lines: for short rows, whose ends are settled once. */
INLINE void NAME(pool_registers_stripe)(const int kind, const int rows, const int stride, const int taps,
                                        const int edge, const fastconv_windows *w, const NAME(pool_column) * run,
                                        ptrdiff_t o) {
  const real *at[POOL_GROUP];
  real *y = run->y;
  UNROLL for (int r = 0; r < rows; r++) at[r] = run->at[r];
  for (ptrdiff_t line = 0; line < run->lines; line++, y += w->out) {
    NAME(pool_registers_outputs)(kind, rows, stride, taps, edge, w, run, line, at, o, y);
    UNROLL for (int r = 0; r < rows; r++) at[r] += run->apart;
  }
}

/* The last stripe overlaps the one before, so that it is whole. */
INLINE void NAME(pool_registers_stripes)(const int kind, const int rows, const int stride, const int taps,
                                         const fastconv_windows *w, const NAME(pool_column) * run) {
  for (ptrdiff_t o = 0; o < w->out; o += VLEN) {
    if (w->out - o < VLEN && o > 0) o = w->out - VLEN;
    if (NAME(pool_registers_edge)(w, stride, o)) NAME(pool_registers_stripe)(kind, rows, stride, taps, 1, w, run, o);
    else NAME(pool_registers_stripe)(kind, rows, stride, taps, 0, w, run, o);
  }
}

/* One long row of outputs after the other, where neighbours share no column; the last vector overlaps the one before.
 */
INLINE void NAME(pool_registers_apart)(const int kind, const int rows, const int stride, const int taps,
                                       const fastconv_windows *w, const NAME(pool_column) * run) {
  const real *at[POOL_GROUP];
  real *y = run->y;
  UNROLL for (int r = 0; r < rows; r++) at[r] = run->at[r];
  for (ptrdiff_t line = 0; line < run->lines; line++, y += w->out) {
    for (ptrdiff_t o = 0; o < w->out; o += VLEN) {
      if (w->out - o < VLEN) o = w->out - VLEN;
      if (NAME(pool_registers_edge)(w, stride, o))
        NAME(pool_registers_outputs)(kind, rows, stride, taps, 1, w, run, line, at, o, y);
      else NAME(pool_registers_outputs)(kind, rows, stride, taps, 0, w, run, line, at, o, y);
    }
    UNROLL for (int r = 0; r < rows; r++) at[r] += run->apart;
  }
}

/* The same where they share columns: what neighbouring vectors share is joined once. */
INLINE void NAME(pool_registers_rows)(const int kind, const int rows, const int stride, const int taps,
                                      const fastconv_windows *w, const NAME(pool_column) * run) {
  const ptrdiff_t width = w->in, out = w->out;
  const real *at[POOL_GROUP];
  real *y = run->y;
  UNROLL for (int r = 0; r < rows; r++) at[r] = run->at[r];
  for (ptrdiff_t line = 0; line < run->lines; line++, y += out) {
    ptrdiff_t c = -w->before;
    vec v[3];
    v[0] = NAME(pool_joined_rows)(kind, rows, 1, at, c, width);
    for (ptrdiff_t o = 0; o < out; o += VLEN, c += stride * VLEN) {
      const int edge = c + (stride + 1) * VLEN > width;
      UNROLL for (int r = rows > stride ? rows - stride : 0; r < rows; r++) UNROLL for (int i = 1; i <= stride; i++)
          PREFETCH(at[r] + c + i * VLEN + POOL_AHEAD);
      UNROLL for (int i = 1; i <= stride; i++) v[i] =
          edge ? NAME(pool_joined_rows)(kind, rows, 1, at, c + i * VLEN, width)
               : NAME(pool_joined_rows)(kind, rows, 0, at, c + i * VLEN, width);
      const vec scale = kind == FASTCONV_POOL_MEAN ? NAME(load_or)((const real *)w->scale + o, out - o, 1) : (vec){0};
      PREFETCH_WRITE(y + o + POOL_AHEAD);
      const vec sum = NAME(pool_joined_columns)(kind, stride, taps, v);
      NAME(store_some)(y + o, NAME(pool_registers_finish)(kind, run, line, sum, scale), out - o);
      v[0] = v[stride];
    }
    UNROLL for (int r = 0; r < rows; r++) at[r] += run->apart;
  }
}

INLINE void NAME(pool_registers_run)(const int kind, const int rows, const int stride, const int taps,
                                     const fastconv_windows *w, const NAME(pool_column) * run) {
  if (w->out <= (rows == POOL_GROUP ? 2 : 1) * POOL_STRIPES * VLEN)
    NAME(pool_registers_stripes)(kind, rows, stride, taps, w, run);
  else if (taps <= stride) NAME(pool_registers_apart)(kind, rows, stride, taps, w, run);
  else NAME(pool_registers_rows)(kind, rows, stride, taps, w, run);
}

INLINE void NAME(pool_registers_kind)(const int kind, const int stride, const int taps, const fastconv_pool *p,
                                      const fastconv_pool_rows *part) {
  const fastconv_windows *h = &p->axis[1], w = p->axis[2];
  const pool_pitch pitch = pool_pitch_of(p);
  pool_place at = pool_place_of(p, part->begin);
  NAME(pool_column) run = {.y = (real *)part->y};
  for (ptrdiff_t row = part->begin; row < part->end; row += run.lines, run.y += run.lines * w.out) {
    const NAME(pool_window) window = NAME(pool_look)(p, (const real *)part->x, at);
    const ptrdiff_t rows = window.planes * window.rows;
    run.lines = NAME(pool_alike)(p, at, part->end - row);
    run.apart = run.lines > 1 ? (h->first[at.h + 1] - h->first[at.h]) * w.in : 0;
    run.scale[0] = window.scale[0], run.scale[1] = window.scale[1];
    for (ptrdiff_t r = 0; r < rows; r++) run.at[r] = window.at + NAME(pool_row)(&window, pitch, r);
    switch (rows) {
      case 0:
        NAME(pool_registers_run)(kind, 0, stride, taps, &w, &run);
        break;
      case 1:
        NAME(pool_registers_run)(kind, 1, stride, taps, &w, &run);
        break;
      case 2:
        NAME(pool_registers_run)(kind, 2, stride, taps, &w, &run);
        break;
      case 3:
        NAME(pool_registers_run)(kind, 3, stride, taps, &w, &run);
        break;
      default:
        NAME(pool_registers_run)(kind, POOL_GROUP, stride, taps, &w, &run);
    }
    pool_advance(p, &at, run.lines);
  }
}

static void NAME(pool_registers)(const fastconv_pool *p, const fastconv_pool_rows *part) {
  const int max = p->kind == FASTCONV_POOL_MAX;
#define WINDOWS(STRIDE, TAPS)                                                     \
  if (p->axis[2].stride == STRIDE && p->axis[2].taps == TAPS) {                   \
    if (max) NAME(pool_registers_kind)(FASTCONV_POOL_MAX, STRIDE, TAPS, p, part); \
    else NAME(pool_registers_kind)(FASTCONV_POOL_MEAN, STRIDE, TAPS, p, part);    \
  }
  WINDOWS(1, 2)
  WINDOWS(1, 3)
  WINDOWS(2, 2)
  WINDOWS(2, 3)
#undef WINDOWS
}
