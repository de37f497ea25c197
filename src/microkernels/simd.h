/* The vectors of one ISA and one dtype: type, lanes, tail accesses, transposes, rounding mode.
 *
 * The only file with an ISA #if. Included once per dtype by a family that dtypes.h defines these for
 *   real        the element type (float or double)
 *   REAL_BITS   32 or 64
 *   NAME(x)     x with the dtype's suffix
 * Everything else is written with GCC/Clang vector extensions on `vec`.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef FASTCONV_SIMD_ONCE
#define FASTCONV_SIMD_ONCE

#if defined(__AVX512F__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define VEC_BYTES 64
#define VEC_REGISTERS 32
#define STREAM(p, v) _mm512_stream_si512((void *)(p), (__m512i)(v))
#define STREAM_END() _mm_sfence()
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define VEC_BYTES 32
#define VEC_REGISTERS 16
#define STREAM(p, v) _mm256_stream_si256((__m256i *)(p), (__m256i)(v))
#define STREAM_END() _mm_sfence()
#elif defined(__SSE2__)
#include <emmintrin.h>
#define VEC_BYTES 16
#define VEC_REGISTERS 16
#define STREAM(p, v) _mm_stream_si128((__m128i *)(p), (__m128i)(v))
#define STREAM_END() _mm_sfence()
#else
#define VEC_BYTES 16
#define VEC_REGISTERS 32
#define STREAM(p, v) (*(p) = (v))
#define STREAM_END() ((void)0)
#endif

/* STREAM(p, v) stores the vector v around the caches, at an address aligned to vectors, where the ISA has such a store;
 * STREAM_END() puts all of them before the stores that follow. */

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

/* The compiler may not ask where v came from: not fold a load into every use, for one. */
#if defined(__SSE2__)
#define OPAQUE(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define OPAQUE(v) __asm__("" : "+w"(v))
#else
#define OPAQUE(v) __asm__("" : "+m"(v))
#endif

#define INLINE static inline __attribute__((always_inline))
#define PREFETCH(p) __builtin_prefetch((const void *)(p), 0, 3)
#define PREFETCH_L2(p) __builtin_prefetch((const void *)(p), 0, 2)
#define PREFETCH_WRITE(p) __builtin_prefetch((const void *)(p), 1, 3)
#define OUTLINE static __attribute__((noinline))

/* An address stays a plain pointer: compilers compute a block's addresses ahead of it, one stack slot each. */
#define IN_POINTER(p) __asm__("" : "+r"(p))

#endif

#define VLEN (VEC_BYTES / (REAL_BITS / 8))

typedef real NAME(vec) __attribute__((vector_size(VEC_BYTES)));
typedef real NAME(uvec) __attribute__((vector_size(VEC_BYTES), aligned(REAL_BITS / 8), may_alias));
#if REAL_BITS == 32
typedef int32_t NAME(ilane);
typedef uint32_t NAME(uivec) __attribute__((vector_size(VEC_BYTES)));
#else
typedef int64_t NAME(ilane);
typedef uint64_t NAME(uivec) __attribute__((vector_size(VEC_BYTES)));
#endif
typedef NAME(ilane) NAME(ivec) __attribute__((vector_size(VEC_BYTES)));

#define vec NAME(vec)
#define uvec NAME(uvec)
#define ivec NAME(ivec)
#define uivec NAME(uivec)
#define ilane NAME(ilane)

INLINE vec NAME(load)(const real *p) { return *(const uvec *)p; }
INLINE void NAME(store)(real *p, vec v) { *(uvec *)p = v; }
INLINE vec NAME(splat)(real x) { return x - (vec){0}; }

/* The first n <= VLEN elements at p, the other lanes zero; never touches memory past p + n. */
INLINE vec NAME(load_tail)(const real *p, ptrdiff_t n) {
#if VEC_BYTES == 64 && REAL_BITS == 32
  return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif VEC_BYTES == 64
  return (vec)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
#elif VEC_BYTES == 32 && REAL_BITS == 32
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return (vec)_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane));
#elif VEC_BYTES == 32
  const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
  return (vec)_mm256_maskload_pd(p, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), lane));
#else
  vec v = {0};
  for (ptrdiff_t i = 0; i < n; i++) v[i] = p[i];
  return v;
#endif
}

INLINE vec NAME(load_some)(const real *p, ptrdiff_t n) { return n < VLEN ? NAME(load_tail)(p, n) : NAME(load)(p); }

/* Stores the first n <= VLEN lanes of v; never touches memory past p + n. */
INLINE void NAME(store_tail)(real *p, vec v, ptrdiff_t n) {
#if VEC_BYTES == 64 && REAL_BITS == 32
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#elif VEC_BYTES == 64
  _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
#elif VEC_BYTES == 32 && REAL_BITS == 32
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  _mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane), (__m256)v);
#elif VEC_BYTES == 32
  const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
  _mm256_maskstore_pd(p, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), lane), (__m256d)v);
#else
  for (ptrdiff_t i = 0; i < n; i++) p[i] = v[i];
#endif
}

INLINE void NAME(store_some)(real *p, vec v, ptrdiff_t n) {
  if (n < VLEN) NAME(store_tail)(p, v, n);
  else NAME(store)(p, v);
}

/* Lanes low .. high - 1 from p, the others from `otherwise`; never touches memory outside p + low .. p + high. */
INLINE vec NAME(load_between)(const real *p, ptrdiff_t low, ptrdiff_t high, vec otherwise) {
  low = low < 0 ? 0 : low > VLEN ? VLEN : low;
  high = high < low ? low : high > VLEN ? VLEN : high;
#if VEC_BYTES == 64 && REAL_BITS == 32
  return (vec)_mm512_mask_loadu_ps((__m512)otherwise, (__mmask16)((1u << high) - (1u << low)), p);
#elif VEC_BYTES == 64
  return (vec)_mm512_mask_loadu_pd((__m512d)otherwise, (__mmask8)((1u << high) - (1u << low)), p);
#elif VEC_BYTES == 32 && REAL_BITS == 32
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i inside = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32((int)low), lane),
                                             _mm256_cmpgt_epi32(_mm256_set1_epi32((int)high), lane));
  return (vec)_mm256_blendv_ps((__m256)otherwise, _mm256_maskload_ps(p, inside), (__m256)inside);
#elif VEC_BYTES == 32
  const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
  const __m256i inside = _mm256_andnot_si256(_mm256_cmpgt_epi64(_mm256_set1_epi64x(low), lane),
                                             _mm256_cmpgt_epi64(_mm256_set1_epi64x(high), lane));
  return (vec)_mm256_blendv_pd((__m256d)otherwise, _mm256_maskload_pd(p, inside), (__m256d)inside);
#else
  for (ptrdiff_t i = low; i < high; i++) otherwise[i] = p[i];
  return otherwise;
#endif
}

/* p[index] for every lane; indices of float64 have 64 bits. The lanes of a masked index are opaque, since GCC 12 drops
 * the mask from an address whose load it sees to be masked, too, and then loads whether the lane counts or not. */
INLINE vec NAME(gather)(const real *p, ivec index) {
#if VEC_BYTES == 64 && REAL_BITS == 32
  return (vec)_mm512_i32gather_ps((__m512i)index, p, 4);
#elif VEC_BYTES == 64
  return (vec)_mm512_i64gather_pd((__m512i)index, p, 8);
#elif VEC_BYTES == 32 && REAL_BITS == 32
  return (vec)_mm256_i32gather_ps(p, (__m256i)index, 4);
#elif VEC_BYTES == 32
  return (vec)_mm256_i64gather_pd(p, (__m256i)index, 8);
#else
  OPAQUE(index);
  vec v = {0};
  UNROLL for (int i = 0; i < VLEN; i++) v[i] = p[index[i]];
  return v;
#endif
}

/* Lane index[i] of v in lane i; indices count from 0 to VLEN - 1. */
INLINE vec NAME(permute)(vec v, ivec index) {
#if VEC_BYTES == 64 && REAL_BITS == 32
  return (vec)_mm512_permutexvar_ps((__m512i)index, (__m512)v);
#elif VEC_BYTES == 64
  return (vec)_mm512_permutexvar_pd((__m512i)index, (__m512d)v);
#elif VEC_BYTES == 32 && REAL_BITS == 32
  return (vec)_mm256_permutevar8x32_ps((__m256)v, (__m256i)index);
#elif VEC_BYTES == 32
  const ivec halves = 2 * index | (2 * index + 1) << 32;
  return (vec)_mm256_permutevar8x32_epi32((__m256i)v, (__m256i)halves);
#else
  OPAQUE(index);
  vec w = {0};
  UNROLL for (int i = 0; i < VLEN; i++) w[i] = v[index[i]];
  return w;
#endif
}

INLINE ivec NAME(splat_index)(ptrdiff_t i) { return (ilane)i - (ivec){0}; }

/* 0, 1, 2, ... */
INLINE ivec NAME(lane_numbers)(void) {
  ivec v = {0};
  UNROLL for (int i = 0; i < VLEN; i++) v[i] = i;
  return v;
}

/* mask ? a : b, lane by lane; mask is what a vector comparison yields (all ones or all zeros). */
INLINE vec NAME(select)(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }

/* Lanes of v where a < b, the others of `otherwise`; a v loaded for this is loaded whole. */
INLINE vec NAME(where_less)(ivec a, ivec b, vec v, vec otherwise) {
#if VEC_BYTES == 64 && REAL_BITS == 32
  return (vec)_mm512_mask_mov_ps((__m512)otherwise, _mm512_cmplt_epi32_mask((__m512i)a, (__m512i)b), (__m512)v);
#elif VEC_BYTES == 64
  return (vec)_mm512_mask_mov_pd((__m512d)otherwise, _mm512_cmplt_epi64_mask((__m512i)a, (__m512i)b), (__m512d)v);
#else
  return NAME(select)(a < b, v, otherwise);
#endif
}

/* The larger (smaller) of limit and v; a NaN in v stays NaN: x86's max and min give their second operand then. */
#if VEC_BYTES == 64 && REAL_BITS == 32
INLINE vec NAME(at_least)(vec v, vec limit) { return (vec)_mm512_max_ps((__m512)limit, (__m512)v); }
INLINE vec NAME(at_most)(vec v, vec limit) { return (vec)_mm512_min_ps((__m512)limit, (__m512)v); }
#elif VEC_BYTES == 64
INLINE vec NAME(at_least)(vec v, vec limit) { return (vec)_mm512_max_pd((__m512d)limit, (__m512d)v); }
INLINE vec NAME(at_most)(vec v, vec limit) { return (vec)_mm512_min_pd((__m512d)limit, (__m512d)v); }
#elif VEC_BYTES == 32 && REAL_BITS == 32
INLINE vec NAME(at_least)(vec v, vec limit) { return (vec)_mm256_max_ps((__m256)limit, (__m256)v); }
INLINE vec NAME(at_most)(vec v, vec limit) { return (vec)_mm256_min_ps((__m256)limit, (__m256)v); }
#elif VEC_BYTES == 32
INLINE vec NAME(at_least)(vec v, vec limit) { return (vec)_mm256_max_pd((__m256d)limit, (__m256d)v); }
INLINE vec NAME(at_most)(vec v, vec limit) { return (vec)_mm256_min_pd((__m256d)limit, (__m256d)v); }
#elif defined(__SSE2__) && REAL_BITS == 32
INLINE vec NAME(at_least)(vec v, vec limit) { return (vec)_mm_max_ps((__m128)limit, (__m128)v); }
INLINE vec NAME(at_most)(vec v, vec limit) { return (vec)_mm_min_ps((__m128)limit, (__m128)v); }
#elif defined(__SSE2__)
INLINE vec NAME(at_least)(vec v, vec limit) { return (vec)_mm_max_pd((__m128d)limit, (__m128d)v); }
INLINE vec NAME(at_most)(vec v, vec limit) { return (vec)_mm_min_pd((__m128d)limit, (__m128d)v); }
#else
INLINE vec NAME(at_least)(vec v, vec limit) { return NAME(select)(v < limit, limit, v); }
INLINE vec NAME(at_most)(vec v, vec limit) { return NAME(select)(v > limit, limit, v); }
#endif

/* The larger of two, NaN before all: b of two NaNs, a of two equals. */
INLINE vec NAME(larger)(vec a, vec b) {
#if VEC_BYTES == 64 && REAL_BITS == 32
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)b, (__m512)b, _CMP_UNORD_Q);
  return (vec)_mm512_mask_mov_ps((__m512)NAME(at_least)(a, b), nan, (__m512)b);
#elif VEC_BYTES == 64
  const __mmask8 nan = _mm512_cmp_pd_mask((__m512d)b, (__m512d)b, _CMP_UNORD_Q);
  return (vec)_mm512_mask_mov_pd((__m512d)NAME(at_least)(a, b), nan, (__m512d)b);
#else
  return NAME(select)(b != b, b, NAME(at_least)(a, b));
#endif
}

/* larger(larger(a, b), c), but for which of several NaNs: one comparison looks for those of b and c. */
INLINE vec NAME(larger_of_three)(vec a, vec b, vec c) {
#if VEC_BYTES == 64 && REAL_BITS == 32
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)b, (__m512)c, _CMP_UNORD_Q);
  const vec most = NAME(at_least)(NAME(at_least)(a, b), c);
  return (vec)_mm512_mask_add_ps((__m512)most, nan, (__m512)b, (__m512)c);
#elif VEC_BYTES == 64
  const __mmask8 nan = _mm512_cmp_pd_mask((__m512d)b, (__m512d)c, _CMP_UNORD_Q);
  const vec most = NAME(at_least)(NAME(at_least)(a, b), c);
  return (vec)_mm512_mask_add_pd((__m512d)most, nan, (__m512d)b, (__m512d)c);
#else
  return NAME(larger)(NAME(larger)(a, b), c);
#endif
}

/* larger of *best and v, whose index is `at`. */
INLINE void NAME(take_larger)(vec *best, ivec *index, vec v, ivec at) {
#if VEC_BYTES == 64 && REAL_BITS == 32
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
  const __mmask16 wins = _mm512_cmp_ps_mask((__m512)v, (__m512)*best, _CMP_GT_OQ) | nan;
  *best = (vec)_mm512_mask_mov_ps((__m512)*best, wins, (__m512)v);
  *index = (ivec)_mm512_mask_mov_epi32((__m512i)*index, wins, (__m512i)at);
#elif VEC_BYTES == 64
  const __mmask8 nan = _mm512_cmp_pd_mask((__m512d)v, (__m512d)v, _CMP_UNORD_Q);
  const __mmask8 wins = _mm512_cmp_pd_mask((__m512d)v, (__m512d)*best, _CMP_GT_OQ) | nan;
  *best = (vec)_mm512_mask_mov_pd((__m512d)*best, wins, (__m512d)v);
  *index = (ivec)_mm512_mask_mov_epi64((__m512i)*index, wins, (__m512i)at);
#else
  const ivec wins = (v > *best) | (v != v);
  *best = NAME(select)(wins, v, *best);
  *index = (ivec)NAME(select)(wins, (vec)at, (vec)*index);
#endif
}

/* Pairwise, so that the order of the additions is the same for every use of a lane count. */
INLINE real NAME(sum_lanes)(vec v) {
  real lanes[VLEN];
  NAME(store)(lanes, v);
  for (int width = VLEN / 2; width > 0; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
  return lanes[0];
}

/* Lane permutations of two vectors, index lists by VLEN: interleaved halves, lanes of even and of odd index,
 * and all but the first one or two with as many of the other's behind them. */
#define SHUFFLE __builtin_shufflevector
#if VEC_BYTES / (REAL_BITS / 8) == 2
#define LANES_LOW 0, 2
#define LANES_HIGH 1, 3
#define LANES_EVEN 0, 2
#define LANES_ODD 1, 3
#define LANES_NEXT 1, 2
#define LANES_SECOND_NEXT 2, 3
#elif VEC_BYTES / (REAL_BITS / 8) == 4
#define LANES_LOW 0, 4, 1, 5
#define LANES_HIGH 2, 6, 3, 7
#define LANES_EVEN 0, 2, 4, 6
#define LANES_ODD 1, 3, 5, 7
#define LANES_NEXT 1, 2, 3, 4
#define LANES_SECOND_NEXT 2, 3, 4, 5
#elif VEC_BYTES / (REAL_BITS / 8) == 8
#define LANES_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define LANES_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#define LANES_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define LANES_ODD 1, 3, 5, 7, 9, 11, 13, 15
#define LANES_NEXT 1, 2, 3, 4, 5, 6, 7, 8
#define LANES_SECOND_NEXT 2, 3, 4, 5, 6, 7, 8, 9
#else
#define LANES_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define LANES_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define LANES_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define LANES_ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define LANES_NEXT 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16
#define LANES_SECOND_NEXT 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17
#endif

INLINE vec NAME(interleave_low)(vec a, vec b) { return SHUFFLE(a, b, LANES_LOW); }
INLINE vec NAME(interleave_high)(vec a, vec b) { return SHUFFLE(a, b, LANES_HIGH); }
INLINE vec NAME(even_lanes)(vec a, vec b) { return SHUFFLE(a, b, LANES_EVEN); }
INLINE vec NAME(odd_lanes)(vec a, vec b) { return SHUFFLE(a, b, LANES_ODD); }
INLINE vec NAME(next_lanes)(vec a, vec b) { return SHUFFLE(a, b, LANES_NEXT); }
INLINE vec NAME(second_lanes)(vec a, vec b) { return SHUFFLE(a, b, LANES_SECOND_NEXT); }

INLINE void NAME(split_in_two)(vec *v, const real *p) {
  v[0] = NAME(even_lanes)(NAME(load)(p), NAME(load)(p + VLEN));
  v[1] = NAME(odd_lanes)(NAME(load)(p), NAME(load)(p + VLEN));
}

/* v[k] = p[k], p[k + ways], p[k + 2 * ways], ... for k < ways <= 5. */
INLINE void NAME(split)(const int ways, vec *v, const real *p) {
  if (ways == 2) {
    NAME(split_in_two)(v, p);
  } else if (ways == 4) {
    vec low[2], high[2];
    NAME(split_in_two)(low, p);
    NAME(split_in_two)(high, p + 2 * VLEN);
    UNROLL for (int i = 0; i < 2; i++) {
      v[i] = NAME(even_lanes)(low[i], high[i]);
      v[i + 2] = NAME(odd_lanes)(low[i], high[i]);
    }
  } else {
#if VEC_BYTES >= 32
    UNROLL for (int k = 0; k < ways; k++) {
      const ivec from = NAME(lane_numbers)() * ways + k;
      v[k] = (vec){0};
      UNROLL for (int j = 0; j < ways; j++) {
        const ivec here = (from >= j * VLEN) & (from < (j + 1) * VLEN);
        v[k] = NAME(select)(here, NAME(permute)(NAME(load)(p + j * VLEN), from & (VLEN - 1)), v[k]);
      }
    }
#else
    UNROLL for (int k = 0; k < ways; k++) {
      vec way = {0};
      UNROLL for (int i = 0; i < VLEN; i++) way[i] = p[i * ways + k];
      v[k] = way;
    }
#endif
  }
}

INLINE void NAME(join_two)(real *p, vec even, vec odd) {
  NAME(store)(p, NAME(interleave_low)(even, odd));
  NAME(store)(p + VLEN, NAME(interleave_high)(even, odd));
}

/* p[i * ways + k] = lane i of v[k] for k < ways <= 5. */
INLINE void NAME(join)(const int ways, real *p, const vec *v) {
  if (ways == 2) {
    NAME(join_two)(p, v[0], v[1]);
  } else if (ways == 4) {
    NAME(join_two)(p, NAME(interleave_low)(v[0], v[2]), NAME(interleave_low)(v[1], v[3]));
    NAME(join_two)(p + 2 * VLEN, NAME(interleave_high)(v[0], v[2]), NAME(interleave_high)(v[1], v[3]));
  } else {
#if VEC_BYTES >= 32
    UNROLL for (int j = 0; j < ways; j++) {
      ivec way = {0}, lane = {0};
      UNROLL for (int i = 0; i < VLEN; i++) way[i] = (j * VLEN + i) % ways, lane[i] = (j * VLEN + i) / ways;
      vec line = {0};
      UNROLL for (int k = 0; k < ways; k++) line = NAME(select)(way == k, NAME(permute)(v[k], lane), line);
      NAME(store)(p + j * VLEN, line);
    }
#else
    UNROLL for (int k = 0; k < ways; k++) UNROLL for (int i = 0; i < VLEN; i++) p[i * ways + k] = v[k][i];
#endif
  }
}

/* Indices of arrays are int64_t whatever the dtype; ours keep their low REAL_BITS. */
INLINE ivec NAME(load_index)(const int64_t *p) {
#if REAL_BITS == 32
  return (ivec)NAME(even_lanes)(NAME(load)((const real *)p), NAME(load)((const real *)(p + VLEN / 2)));
#else
  return (ivec)NAME(load)((const real *)p);
#endif
}

INLINE void NAME(store_index)(int64_t *p, ivec v) {
#if REAL_BITS == 32
  const vec sign = (vec)(v < 0);
  NAME(store)((real *)p, NAME(interleave_low)((vec)v, sign));
  NAME(store)((real *)(p + VLEN / 2), NAME(interleave_high)((vec)v, sign));
#else
  NAME(store)((real *)p, (vec)v);
#endif
}

/* Transposes VLEN x VLEN in place: each of log2(VLEN) passes interleaves the upper with the lower half of the rows. */
INLINE void NAME(transpose)(vec rows[VLEN]) {
  UNROLL for (int pass = 1; pass < VLEN; pass *= 2) {
    vec next[VLEN];
    UNROLL for (int i = 0; i < VLEN / 2; i++) {
      next[2 * i] = NAME(interleave_low)(rows[i], rows[i + VLEN / 2]);
      next[2 * i + 1] = NAME(interleave_high)(rows[i], rows[i + VLEN / 2]);
    }
    UNROLL for (int i = 0; i < VLEN; i++) rows[i] = next[i];
  }
}

/* first[l] = p[at[l]] and second[l] = p[at[l] + 1]: loads of two neighbours at once, put together in blocks of 16
 * bytes. A third of the time of gather instructions where microcode guards these (Cascade Lake, 2 x 16 such pairs: 35
 * cycles against 112). Merging broadcasts use two ports, inserts one: 35 cycles against 42. */
typedef double NAME(block) __attribute__((vector_size(16), aligned(REAL_BITS / 8), may_alias));
#if REAL_BITS == 32
typedef double NAME(pair) __attribute__((aligned(REAL_BITS / 8), may_alias));
#define PAIR(l) (*(const NAME(pair) *)(p + at[l]))
#define PAIR_BLOCK(b, half) ((NAME(block)){PAIR(4 * (b) + 2 * (half)), PAIR(4 * (b) + 2 * (half) + 1)})
#else
#define PAIR_BLOCK(b, half) (*(const NAME(block) *)(p + at[2 * (b) + (half)]))
#endif
#if VEC_BYTES == 64 && REAL_BITS == 32
#define PAIR_INTO(v, b, half, i) \
  _mm512_mask_broadcastsd_pd(v, 1 << (2 * (b) + (i)), _mm_set_sd(PAIR(4 * (b) + 2 * (half) + (i))))
#define PAIR_BLOCK_INTO(v, b, half) PAIR_INTO(PAIR_INTO(v, b, half, 0), b, half, 1)
#define PAIR_BLOCKS(half)                                                                                          \
  PAIR_BLOCK_INTO(                                                                                                 \
      PAIR_BLOCK_INTO(PAIR_BLOCK_INTO(_mm512_castpd128_pd512((__m128d)PAIR_BLOCK(0, half)), 1, half), 2, half), 3, \
      half)
#elif VEC_BYTES == 64
#define PAIR_INTO(v, b, half) _mm512_mask_broadcast_f64x2(v, 3 << (2 * (b)), (__m128d)PAIR_BLOCK(b, half))
#define PAIR_BLOCKS(half) \
  PAIR_INTO(PAIR_INTO(PAIR_INTO(_mm512_castpd128_pd512((__m128d)PAIR_BLOCK(0, half)), 1, half), 2, half), 3, half)
#elif VEC_BYTES == 32
#define PAIR_BLOCKS(half) SHUFFLE(PAIR_BLOCK(0, half), PAIR_BLOCK(1, half), 0, 1, 2, 3)
#else
#define PAIR_BLOCKS(half) PAIR_BLOCK(0, half)
#endif
#if VEC_BYTES == 16 && REAL_BITS == 32
#define LANES_FIRST 0, 2, 4, 6
#define LANES_SECOND 1, 3, 5, 7
#elif VEC_BYTES == 16
#define LANES_FIRST 0, 2
#define LANES_SECOND 1, 3
#elif VEC_BYTES == 32 && REAL_BITS == 32
#define LANES_FIRST 0, 2, 8, 10, 4, 6, 12, 14
#define LANES_SECOND 1, 3, 9, 11, 5, 7, 13, 15
#elif VEC_BYTES == 32
#define LANES_FIRST 0, 4, 2, 6
#define LANES_SECOND 1, 5, 3, 7
#elif REAL_BITS == 32
#define LANES_FIRST 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30
#define LANES_SECOND 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31
#else
#define LANES_FIRST 0, 8, 2, 10, 4, 12, 6, 14
#define LANES_SECOND 1, 9, 3, 11, 5, 13, 7, 15
#endif

INLINE void NAME(load_pairs)(const real *p, const ilane *at, vec *first, vec *second) {
  __asm__ volatile("" : "+r"(at)); /* else the compiler keeps all indices for the next planes, and spills them */
  const vec low = (vec)PAIR_BLOCKS(0), high = (vec)PAIR_BLOCKS(1);
  *first = SHUFFLE(low, high, LANES_FIRST);
  *second = SHUFFLE(low, high, LANES_SECOND);
}

#undef LANES_LOW
#undef LANES_HIGH
#undef LANES_EVEN
#undef LANES_ODD
#undef LANES_FIRST
#undef LANES_SECOND
#undef PAIR
#undef PAIR_BLOCK
#undef PAIR_BLOCKS
#undef PAIR_INTO
#undef PAIR_BLOCK_INTO
#undef LANES_NEXT
#undef LANES_SECOND_NEXT
#undef SHUFFLE
