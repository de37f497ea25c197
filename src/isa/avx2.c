#define ISA avx2
#define ISA_SUPPORTED \
  (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
#include "../microkernels/instantiate.h"
