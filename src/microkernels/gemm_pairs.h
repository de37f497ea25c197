/* The register tile of weight gradients: c[i][j] (+)= sum over pairs p of a[p][i] * b[p][j] (see table.h).
 *
 * Every pair is one pixel: its output channels (a, broadcast) times its input channels (b, vectors). Where either lies
 * is read from a list, so that one packed block of pixels serves every tap and what falls into padding costs nothing.
 * A step of MR x 2 vectors loads MR + 2 values for 2 MR multiply-adds and reads least per product of all tiles that fit
 * the registers, so that a and b may come from L2. 32 registers: 14 x 2 sums + 2 + 1 (12 x 2, 6 x 4 and 8 x 3 issue
 * more instructions per product); 16 registers: 6 x 2 sums + 2 + 1.
 */
#if VEC_REGISTERS == 32
#define PAIRS_MR 14
#else
#define PAIRS_MR 6
#endif
#define PAIRS_NV 2

/* A small tile sums several pairs side by side: fewer than eight or so chains of additions would wait for each other.
 */
#define PAIRS_WAYS(SUMS) (4 * (SUMS) <= PAIRS_MR * PAIRS_NV ? 4 : 2 * (SUMS) <= PAIRS_MR * PAIRS_NV ? 2 : 1)

typedef vec NAME(pairs_sums)[PAIRS_MR][PAIRS_NV];

INLINE void NAME(clear_sums)(NAME(pairs_sums) sum, const int mr, const int nv) {
  UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) sum[i][j] = (vec){0};
}

INLINE void NAME(add_sums)(NAME(pairs_sums) sum, NAME(pairs_sums) other, const int mr, const int nv) {
  UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) sum[i][j] += other[i][j];
}

INLINE void NAME(add_pair)(NAME(pairs_sums) sum, const fastconv_pairs_tile *t, const fastconv_pair *pair, const int mr,
                           const int nv) {
  const real *a = (const real *)(t->a + pair->a), *b = (const real *)(t->b + pair->b);
  vec bv[PAIRS_NV];
  UNROLL for (int j = 0; j < nv; j++) bv[j] = NAME(load)(b + j * VLEN);
  UNROLL for (int i = 0; i < mr; i++) {
    const vec ai = NAME(splat)(a[i]);
    UNROLL for (int j = 0; j < nv; j++) sum[i][j] += ai * bv[j];
  }
}

INLINE void NAME(gemm_pairs_tile)(const fastconv_pairs_tile *t, const int mr, const int nv) {
  const int ways = PAIRS_WAYS(mr * nv);
  const fastconv_pair *pair = t->pairs, *const end = pair + t->count, *const whole = end - t->count % ways;
  const char *prefetch = t->prefetch;
  NAME(pairs_sums) sum, sum1, sum2, sum3;
  NAME(clear_sums)(sum, mr, nv);
  if (ways >= 2) NAME(clear_sums)(sum1, mr, nv);
  if (ways == 4) NAME(clear_sums)(sum2, mr, nv), NAME(clear_sums)(sum3, mr, nv);
  UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j += 64 / VEC_BYTES)
      PREFETCH_WRITE((real *)t->c + i * t->ldc + j * VLEN);
  for (; pair != whole; pair += ways, prefetch += ways * t->prefetch_step) {
    UNROLL for (int way = 0; way < ways; way++) PREFETCH_L2(prefetch + way * t->prefetch_step);
    NAME(add_pair)(sum, t, pair, mr, nv);
    if (ways >= 2) NAME(add_pair)(sum1, t, pair + 1, mr, nv);
    if (ways == 4) NAME(add_pair)(sum2, t, pair + 2, mr, nv), NAME(add_pair)(sum3, t, pair + 3, mr, nv);
  }
  if (ways > 1)
    for (; pair != end; pair++) NAME(add_pair)(sum, t, pair, mr, nv);
  if (ways == 4) NAME(add_sums)(sum2, sum3, mr, nv), NAME(add_sums)(sum1, sum2, mr, nv);
  if (ways >= 2) NAME(add_sums)(sum, sum1, mr, nv);
  UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nv; j++) {
    real *c = (real *)t->c + i * t->ldc + j * VLEN;
    NAME(store)(c, t->accumulate ? NAME(load)(c) + sum[i][j] : sum[i][j]);
  }
}

#define PAIRS_TILE(MR, NV) \
  static void NAME(gemm_pairs_##MR##x##NV)(const fastconv_pairs_tile *t) { NAME(gemm_pairs_tile)(t, MR, NV); }
#define PAIRS_ROW(MR) PAIRS_TILE(MR, 1) PAIRS_TILE(MR, 2)
PAIRS_ROW(1)
PAIRS_ROW(2)
PAIRS_ROW(3)
PAIRS_ROW(4)
PAIRS_ROW(5)
PAIRS_ROW(6)
#if PAIRS_MR == 14
PAIRS_ROW(7)
PAIRS_ROW(8)
PAIRS_ROW(9)
PAIRS_ROW(10)
PAIRS_ROW(11)
PAIRS_ROW(12)
PAIRS_ROW(13)
PAIRS_ROW(14)
#endif

static void NAME(gemm_pairs)(const fastconv_pairs_tile *t) {
#define PAIRS_ENTRY(MR)                                  \
  {                                                      \
    NAME(gemm_pairs_##MR##x1), NAME(gemm_pairs_##MR##x2) \
  }
  static void (*const tiles[PAIRS_MR][PAIRS_NV])(const fastconv_pairs_tile *) = {
      PAIRS_ENTRY(1),  PAIRS_ENTRY(2),  PAIRS_ENTRY(3), PAIRS_ENTRY(4),  PAIRS_ENTRY(5),  PAIRS_ENTRY(6),
#if PAIRS_MR == 14
      PAIRS_ENTRY(7),  PAIRS_ENTRY(8),  PAIRS_ENTRY(9), PAIRS_ENTRY(10), PAIRS_ENTRY(11), PAIRS_ENTRY(12),
      PAIRS_ENTRY(13), PAIRS_ENTRY(14),
#endif
  };
  tiles[t->rows - 1][t->vectors - 1](t);
}
