#define ISA avx512
#define ISA_SUPPORTED                                                                                               \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") && \
   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx2") &&    \
   __builtin_cpu_supports("fma"))
#include "../microkernels/instantiate.h"
