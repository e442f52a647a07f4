// Products and embedding of weights that stand in order: f32, f16, and int8 with a scale per block. Formulas, shapes
// and launches are in product.h; kernel/scalar.rs is the CPU twin.
#include "product.h"

PRODUCTS(f32, F32)
PRODUCTS(f16, F16)
PRODUCTS(int8, Int8)
MANY(f32, F32)
MANY(f16, F16)
MANY(int8, Int8)
EMBEDDING(f32, F32)
EMBEDDING(f16, F16)
EMBEDDING(int8, Int8)
