/* What one dtype's turn defined (dtypes.h and simd.h). */
#undef real
#undef REAL_BITS
#undef NAME
#undef vec
#undef uvec
#undef ivec
#undef uivec
#undef ilane
#undef VLEN
