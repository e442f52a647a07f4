// Products and embedding of NF4 weights: 16 values, a scale per block, plain f32 or doubly quantized. Formulas, shapes
// and launches are in product.h, the layout of the codes in weights.h; kernel/scalar.rs is the CPU twin.
#include "product.h"

PRODUCTS(nf4, Nf4)
EMBEDDING(nf4, Nf4)
