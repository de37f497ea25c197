/* A family of microkernels, once per dtype: its .c file names itself as FAMILY and includes this file, which includes
 * it again with
 *   real, REAL_BITS  float and 32, double and 64
 *   NAME(x)          x with the dtype's suffix
 *   FILL             the head of the function that puts the family's entries into `table`
 * ISA is defined by the compiler's command line.
 */
#include <math.h>

#include "../isa/table.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define FILL_(x) JOIN(JOIN(JOIN(fastconv_, ISA), _), x)
#define FILL(family)                                  \
  void FILL_(NAME(family))(fastconv_kernels * table); \
  void FILL_(NAME(family))(fastconv_kernels * table)

#define real float
#define REAL_BITS 32
#define NAME(x) JOIN(x, _f32)
#include FAMILY
#include "undefine.h"

#define real double
#define REAL_BITS 64
#define NAME(x) JOIN(x, _f64)
#include FAMILY
#include "undefine.h"
