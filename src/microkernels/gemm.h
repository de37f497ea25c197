/* The register tile of every dense convolution: MR rows by NV vectors of sums, one batch-reduce GEMM (see table.h).
 *
 * Rows are broadcast, columns are vectors: output channels by pixels for channels_first, pixels by output channels for
 * channels_last. A row's k elements are contiguous, as a pixel's of channels_last are, or rows lie side by side.
 * A step of k loads NV vectors and broadcasts MR scalars for MR * NV multiply-adds, fewer loads than two ports give.
 * 32 registers: 6 x 4 sums + 4 + 1; 16 registers: 6 x 2 sums + 2 + 1 (BLIS on Haswell: Van Zee, van de Geijn 2015).
 */
#if VEC_REGISTERS == 32
#define GEMM_NV 4
#else
#define GEMM_NV 2
#endif
#define GEMM_MR 6

#define GEMM_STEPS 4 /* of k a turn of the loop: what it takes to count them is felt beside 24 multiply-adds */

typedef vec NAME(gemm_sums)[GEMM_MR][GEMM_NV];

INLINE void NAME(gemm_step)(NAME(gemm_sums) sum, const real *const *a, ptrdiff_t k, const real *b, const int mr,
                            const int nv) {
  vec bk[GEMM_NV];
  UNROLL for (int j = 0; j < nv; j++) bk[j] = NAME(load)(b + j * VLEN);
  UNROLL for (int i = 0; i < mr; i++) {
    const vec aik = NAME(splat)(a[i][k]);
    UNROLL for (int j = 0; j < nv; j++) sum[i][j] += aik * bk[j];
  }
}

/* Where a tile's rows are stored and what is added to them: residual[0] is NULL if nothing is. */
typedef struct {
  real *c[GEMM_MR];
  const real *residual[GEMM_MR];
} NAME(gemm_places);

/* Asks for half of the places of a row of sums, and of its residual: c is met only after the sums, by then it has come.
 * All rows at once would keep the lines of b waiting that the next steps need. */
INLINE void NAME(gemm_bring)(const NAME(gemm_places) * at, const ptrdiff_t half, const int nv, const int stream) {
  const ptrdiff_t first = half % 2 * VLEN;
  if (!stream) UNROLL for (int j = 0; j < nv; j += 2) PREFETCH_WRITE(at->c[half / 2] + first + j * VLEN);
  if (at->residual[0]) UNROLL for (int j = 0; j < nv; j += 2) PREFETCH(at->residual[half / 2] + first + j * VLEN);
}

/* All of them, if there are too few turns for that; returns how many halves were asked for. */
INLINE ptrdiff_t NAME(gemm_bring_first)(const NAME(gemm_places) * at, const ptrdiff_t turns, const int mr, const int nv,
                                        const int stream) {
  if (turns >= 2 * mr) return 0;
  UNROLL for (int half = 0; half < 2 * mr; half++) NAME(gemm_bring)(at, half, nv, stream);
  return 2 * mr;
}

/* What sums over one run of k need, and how far they have come with what they ask for. */
typedef struct {
  ptrdiff_t k, ldb, prefetch_step, half;
  const char *prefetch;
} NAME(gemm_run);

INLINE void NAME(gemm_sum_run)(NAME(gemm_sums) sum, NAME(gemm_run) * run, const NAME(gemm_places) * at,
                               const real *const *a, const real *b, const int mr, const int nv, const int stream) {
  const ptrdiff_t whole = run->k & -GEMM_STEPS;
  ptrdiff_t k = 0;
  for (; k < whole; k += GEMM_STEPS) {
    if (run->half < 2 * mr) NAME(gemm_bring)(at, run->half++, nv, stream);
    UNROLL for (int step = 0; step < GEMM_STEPS; step++) PREFETCH_L2(run->prefetch + step * run->prefetch_step);
    UNROLL for (int step = 0; step < GEMM_STEPS; step++, b += run->ldb) NAME(gemm_step)(sum, a, k + step, b, mr, nv);
    run->prefetch += GEMM_STEPS * run->prefetch_step;
  }
  for (; k < run->k; k++, b += run->ldb) NAME(gemm_step)(sum, a, k, b, mr, nv);
}

INLINE void NAME(gemm_sum)(NAME(gemm_sums) sum, const fastconv_gemm_tile *t, const NAME(gemm_places) * at, const int mr,
                           const int nv, const int stream) {
  NAME(gemm_run) run = {t->k, t->ldb, t->prefetch_step, 0, t->prefetch};
  run.half = NAME(gemm_bring_first)(at, t->entries * (t->k / GEMM_STEPS), mr, nv, stream);
  for (ptrdiff_t e = 0; e < t->entries; e++) {
    const real *a[GEMM_MR];
    UNROLL for (int i = 0; i < mr; i++) a[i] = (const real *)(t->a[e * FASTCONV_MAX_ROWS + i] + t->a_offset);
    NAME(gemm_sum_run)(sum, &run, at, a, (const real *)(t->b + t->b_offsets[e]), mr, nv, stream);
  }
}

INLINE void NAME(gemm_line)(NAME(gemm_sums) sum, const real *a, const char *b, const int mr, const int nv) {
  const real *row[GEMM_MR];
  UNROLL for (int i = 0; i < mr; i++) row[i] = a + i;
  NAME(gemm_step)(sum, row, 0, (const real *)b, mr, nv);
}

/* The same for lines of b that lie anywhere, and a packed [k][rows]. */
INLINE void NAME(gemm_sum_lines)(NAME(gemm_sums) sum, const fastconv_gemm_tile *t, const NAME(gemm_places) * at,
                                 const int mr, const int nv, const int stream) {
  const char *prefetch = t->prefetch, *b = t->b;
  const real *a = (const real *)(t->a[0] + t->a_offset);
  const ptrdiff_t *line = t->b_offsets, *const end = line + t->k, *const whole = line + (t->k & -GEMM_STEPS);
  ptrdiff_t half = NAME(gemm_bring_first)(at, t->k / GEMM_STEPS, mr, nv, stream);
  for (; line < whole; line += GEMM_STEPS) {
    if (half < 2 * mr) NAME(gemm_bring)(at, half++, nv, stream);
    PREFETCH_L2(prefetch);
    PREFETCH_L2(prefetch + GEMM_STEPS / 2 * t->prefetch_step);
    UNROLL for (int step = 0; step < GEMM_STEPS; step++, a += mr) NAME(gemm_line)(sum, a, b + line[step], mr, nv);
    prefetch += GEMM_STEPS * t->prefetch_step;
  }
  for (; line < end; line++, a += mr) NAME(gemm_line)(sum, a, b + *line, mr, nv);
}

/* The columns of a row's j-th vector, of which the last may have but `tail`; 0: all are whole. */
INLINE vec NAME(load_columns)(const real *row, const int j, const int nv, const ptrdiff_t tail) {
  return tail && j == nv - 1 ? NAME(load_tail)(row + j * VLEN, tail) : NAME(load)(row + j * VLEN);
}

INLINE void NAME(gemm_scale)(NAME(gemm_sums) sum, const real *scale, int per_row, const int mr, const int nv,
                             const ptrdiff_t tail) {
  if (per_row) UNROLL for (int i = 0; i < mr; i++) {
      const vec v = NAME(splat)(scale[i]);
      UNROLL for (int j = 0; j < nv; j++) sum[i][j] *= v;
    }
  else UNROLL for (int j = 0; j < nv; j++) {
      const vec v = NAME(load_columns)(scale, j, nv, tail);
      UNROLL for (int i = 0; i < mr; i++) sum[i][j] *= v;
    }
}

/* The shift plus `times` every sum, which is 0 where there are none yet. */
INLINE void NAME(gemm_shift)(NAME(gemm_sums) sum, const real *shift, int per_row, const int times, const int mr,
                             const int nv, const ptrdiff_t tail) {
  if (per_row) UNROLL for (int i = 0; i < mr; i++) {
      const vec v = NAME(splat)(shift[i]);
      UNROLL for (int j = 0; j < nv; j++) sum[i][j] = times ? sum[i][j] + v : v;
    }
  else UNROLL for (int j = 0; j < nv; j++) {
      const vec v = NAME(load_columns)(shift, j, nv, tail);
      UNROLL for (int i = 0; i < mr; i++) sum[i][j] = times ? sum[i][j] + v : v;
    }
}

/* Whether sums can start from the shift, which then need not be added to each at its end. */
INLINE int NAME(starts_shifted)(const fastconv_epilogue *e, int accumulate) {
  return e && e->shift && !e->scale && !accumulate;
}

INLINE void NAME(gemm_start)(NAME(gemm_sums) sum, const fastconv_epilogue *e, int accumulate, const int mr,
                             const int nv, const ptrdiff_t tail) {
  if (NAME(starts_shifted)(e, accumulate)) {
    NAME(gemm_shift)(sum, (const real *)e->shift, e->per_row, 0, mr, nv, tail);
    return;
  }
  UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) sum[i][j] = (vec){0};
}

/* One pass over the registers for each thing that there is to do to finished sums. */
INLINE void NAME(gemm_finish)(NAME(gemm_sums) sum, const fastconv_epilogue *e, const NAME(gemm_places) * at,
                              int accumulate, const int mr, const int nv, const ptrdiff_t tail) {
  if (accumulate)
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) sum[i][j] +=
        NAME(load_columns)(at->c[i], j, nv, tail);
  if (!e) return;
  if (e->scale) NAME(gemm_scale)(sum, (const real *)e->scale, e->per_row, mr, nv, tail);
  if (e->shift && !NAME(starts_shifted)(e, accumulate))
    NAME(gemm_shift)(sum, (const real *)e->shift, e->per_row, 1, mr, nv, tail);
  if (at->residual[0])
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) sum[i][j] +=
        NAME(load_columns)(at->residual[i], j, nv, tail);
  if (e->lower > -INFINITY) {
    const vec lower = NAME(splat)((real)e->lower);
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) sum[i][j] =
        NAME(at_least)(sum[i][j], lower);
  }
  if (e->upper < INFINITY) {
    const vec upper = NAME(splat)((real)e->upper);
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) sum[i][j] = NAME(at_most)(sum[i][j], upper);
  }
}

INLINE void NAME(gemm_store)(NAME(gemm_sums) sum, const NAME(gemm_places) * at, const int stream, const int mr,
                             const int nv, const ptrdiff_t tail) {
  real *row[GEMM_MR]; /* read before any store, behind which a compiler would read them anew */
  UNROLL for (int i = 0; i < mr; i++) row[i] = at->c[i];
  UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) {
    if (stream) STREAM(row[i] + j * VLEN, sum[i][j]);
    else if (tail && j == nv - 1) NAME(store_tail)(row[i] + j * VLEN, sum[i][j], tail);
    else NAME(store)(row[i] + j * VLEN, sum[i][j]);
  }
}

INLINE int NAME(gemm_is_aligned)(const NAME(gemm_places) * at, const int mr) {
  uintptr_t places = 0;
  UNROLL for (int i = 0; i < mr; i++) places |= (uintptr_t)at->c[i];
  return places % VEC_BYTES == 0;
}

static void NAME(gemm_stream_end)(void) { STREAM_END(); }

INLINE void NAME(gemm_tile)(const fastconv_gemm_tile *t, const int mr, const int nv, const int masked,
                            const int lines) {
  const fastconv_epilogue *e = t->epilogue;
  const ptrdiff_t tail = masked ? t->columns - (nv - 1) * VLEN : 0;
  NAME(gemm_places) at;
  at.residual[0] = NULL;
  UNROLL for (int i = 0; i < mr; i++) at.c[i] = (real *)(t->c[i] + t->c_offset);
  if (e && e->residual)
    UNROLL for (int i = 0; i < mr; i++) at.residual[i] = (const real *)(e->residual[i] + t->c_offset);
  const int stream = !masked && e && e->stream && NAME(gemm_is_aligned)(&at, mr);
  NAME(gemm_sums) sum;
  NAME(gemm_start)(sum, e, t->accumulate, mr, nv, tail);
  if (lines) NAME(gemm_sum_lines)(sum, t, &at, mr, nv, stream);
  else NAME(gemm_sum)(sum, t, &at, mr, nv, stream);
  NAME(gemm_finish)(sum, e, &at, t->accumulate, mr, nv, tail);
  NAME(gemm_store)(sum, &at, stream, mr, nv, tail);
}

/* The tile of the first rows, of which g moves on to those behind. */
INLINE void NAME(gemm_rows_tile)(fastconv_gemm_rows *g, NAME(gemm_run) * run, const int mr, const int nv,
                                 const ptrdiff_t tail) {
  const fastconv_epilogue *e = g->epilogue;
  const real *b = (const real *)g->b;
  NAME(gemm_places) at;
  at.residual[0] = NULL;
  UNROLL for (int i = 0; i < mr; i++) at.c[i] = (real *)(g->c + i * g->c_step);
  if (g->residual) UNROLL for (int i = 0; i < mr; i++) at.residual[i] = (const real *)(g->residual + i * g->c_step);
  const int stream = !tail && e && e->stream && NAME(gemm_is_aligned)(&at, mr);
  NAME(gemm_sums) sum;
  NAME(gemm_start)(sum, e, g->accumulate, mr, nv, tail);
  run->half = NAME(gemm_bring_first)(&at, g->entries * (g->k / GEMM_STEPS), mr, nv, stream);
  for (ptrdiff_t entry = 0; entry < g->entries; entry++, b += g->k * g->ldb) {
    const real *a[GEMM_MR];
    UNROLL for (int i = 0; i < mr; i++) a[i] = (const real *)(g->a + g->a_offsets[entry] + i * g->a_step);
    NAME(gemm_sum_run)(sum, run, &at, a, b, mr, nv, stream);
  }
  NAME(gemm_finish)(sum, e, &at, g->accumulate, mr, nv, tail);
  NAME(gemm_store)(sum, &at, stream, mr, nv, tail);
  g->a += mr * g->a_step;
  g->c += mr * g->c_step;
  if (g->residual) g->residual += mr * g->c_step;
}

INLINE void NAME(gemm_tiles_down)(fastconv_gemm_rows *rows, ptrdiff_t tiles, const int mr, const int nv,
                                  const int masked) {
  const ptrdiff_t tail = masked ? rows->columns - (nv - 1) * VLEN : 0;
  fastconv_gemm_rows g = *rows; /* a copy of its own, which no store can change */
  NAME(gemm_run) run = {g.k, g.ldb, g.prefetch_step, 0, g.prefetch};
  for (; tiles > 0; tiles--) NAME(gemm_rows_tile)(&g, &run, mr, nv, tail);
  g.prefetch = run.prefetch;
  *rows = g;
}

#define GEMM_TILE(MR, NV)                                                                                         \
  static void NAME(gemm_##MR##x##NV)(const fastconv_gemm_tile *t) { NAME(gemm_tile)(t, MR, NV, 0, 0); }           \
  static void NAME(gemm_##MR##x##NV##_masked)(const fastconv_gemm_tile *t) { NAME(gemm_tile)(t, MR, NV, 1, 0); }  \
  static void NAME(lines_##MR##x##NV)(const fastconv_gemm_tile *t) { NAME(gemm_tile)(t, MR, NV, 0, 1); }          \
  static void NAME(lines_##MR##x##NV##_masked)(const fastconv_gemm_tile *t) { NAME(gemm_tile)(t, MR, NV, 1, 1); } \
  static void NAME(rows_##MR##x##NV)(fastconv_gemm_rows * g, ptrdiff_t tiles) {                                   \
    NAME(gemm_tiles_down)(g, tiles, MR, NV, 0);                                                                   \
  }                                                                                                               \
  static void NAME(rows_##MR##x##NV##_masked)(fastconv_gemm_rows * g, ptrdiff_t tiles) {                          \
    NAME(gemm_tiles_down)(g, tiles, MR, NV, 1);                                                                   \
  }
#define GEMM_ROWS(NV) \
  GEMM_TILE(1, NV) GEMM_TILE(2, NV) GEMM_TILE(3, NV) GEMM_TILE(4, NV) GEMM_TILE(5, NV) GEMM_TILE(6, NV)
GEMM_ROWS(1)
GEMM_ROWS(2)
#if GEMM_NV == 4
GEMM_ROWS(3)
GEMM_ROWS(4)
#endif

#define GEMM_ENTRY(OF, MR, NV) {NAME(OF##_##MR##x##NV), NAME(OF##_##MR##x##NV##_masked)}
#define GEMM_ENTRIES(OF, NV)                                            \
  {GEMM_ENTRY(OF, 1, NV), GEMM_ENTRY(OF, 2, NV), GEMM_ENTRY(OF, 3, NV), \
   GEMM_ENTRY(OF, 4, NV), GEMM_ENTRY(OF, 5, NV), GEMM_ENTRY(OF, 6, NV)}
#if GEMM_NV == 4
#define GEMM_TABLE(OF) {GEMM_ENTRIES(OF, 1), GEMM_ENTRIES(OF, 2), GEMM_ENTRIES(OF, 3), GEMM_ENTRIES(OF, 4)}
#else
#define GEMM_TABLE(OF) {GEMM_ENTRIES(OF, 1), GEMM_ENTRIES(OF, 2)}
#endif
typedef void (*const NAME(gemm_tiles)[GEMM_NV][GEMM_MR][2])(const fastconv_gemm_tile *);

typedef void (*const NAME(gemm_heights)[GEMM_NV][GEMM_MR][2])(fastconv_gemm_rows *, ptrdiff_t tiles);

static void NAME(gemm_rows)(const fastconv_gemm_rows *rows) {
  static NAME(gemm_heights) heights = GEMM_TABLE(rows);
  const ptrdiff_t nv = (rows->columns - 1) / VLEN, masked = rows->columns % VLEN != 0;
  fastconv_gemm_rows g = *rows;
  ptrdiff_t tiles = g.rows / GEMM_MR, rest = g.rows % GEMM_MR;
  const int splits = rest == 1 && tiles > 0; /* a row alone would wait for its own sums: then the last tiles are 4, 3 */
  if (tiles > splits) heights[nv][GEMM_MR - 1][masked](&g, tiles - splits);
  if (splits) heights[nv][GEMM_MR / 2][masked](&g, 1), rest = GEMM_MR / 2;
  if (rest) heights[nv][rest - 1][masked](&g, 1);
}

static void NAME(gemm)(const fastconv_gemm_tile *t) {
  static NAME(gemm_tiles) tiles = GEMM_TABLE(gemm);
  tiles[(t->columns - 1) / VLEN][t->rows - 1][t->columns % VLEN != 0](t);
}

static void NAME(gemm_lines)(const fastconv_gemm_tile *t) {
  static NAME(gemm_tiles) tiles = GEMM_TABLE(lines);
  tiles[(t->columns - 1) / VLEN][t->rows - 1][t->columns % VLEN != 0](t);
}
