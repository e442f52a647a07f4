// Products of NF4 weights with few vectors, and embedding: 16 values, a scale per block, plain f32 or doubly quantized. Formulas, shapes
// and launches are in product.h, the layout of the codes in weights.h; kernel/scalar.rs is the CPU twin.
#include "product.h"

PRODUCTS(nf4, Nf4)
TWO(256) product_nf4_1_large(const Product p) { product<Nf4, 1, 4>(p); }
EMBEDDING(nf4, Nf4)
