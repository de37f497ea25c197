/* The tables of one ISA, compiled for it like the families of microkernels that fill them. */
#include "table.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define OF_ISA(x) JOIN(JOIN(fastconv_, ISA), x)

/* A line of each file in src/microkernels/. */
#define FAMILIES     \
  FAMILY(_bilinear)  \
  FAMILY(_depthwise) \
  FAMILY(_gemm)      \
  FAMILY(_grouped)   \
  FAMILY(_pack)      \
  FAMILY(_pool)      \
  FAMILY(_probe)     \
  FAMILY(_rows)      \
  FAMILY(_sum)       \
  FAMILY(_winograd)

#define FAMILY(name)                                 \
  void OF_ISA(name##_f32)(fastconv_kernels * table); \
  void OF_ISA(name##_f64)(fastconv_kernels * table);
FAMILIES
#undef FAMILY

static fastconv_kernels tables[FASTCONV_DTYPES];

const fastconv_kernels *OF_ISA(_tables)(void);

const fastconv_kernels *OF_ISA(_tables)(void) {
#define FAMILY(name)                         \
  OF_ISA(name##_f32)(&tables[FASTCONV_F32]); \
  OF_ISA(name##_f64)(&tables[FASTCONV_F64]);
  FAMILIES
#undef FAMILY
  return tables;
}
