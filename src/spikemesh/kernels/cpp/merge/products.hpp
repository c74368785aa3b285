// A matrix and products of thin matrices added to it (low-rank adapters): the exact sum, rounded once.
//
//     out[i, j] = base[i, j] + (sum over k of weight[k] * scale[k] * left[i, k] * right[k, j]) / divisor
//
// A double-precision product with a bound on its error decides almost every element: where the number below and the number
// above by the bound are rounded to the same, so is the exact sum between them. The others are summed in wide integers.
#pragma once
#include <cstdint>

#include "wide_sum.hpp"

namespace spikemesh {

// Thin factors, both row-major, in float or double; all finite.
template <class Real>
struct Factors {
    const Real* left;        // [rows, num_terms]
    const Real* right;       // [num_terms, columns]
    const double* reach;     // [num_terms]: the largest magnitude in each row of `right`
    const int64_t* weights;  // [num_terms], below 2^31 in magnitude
    const double* scales;    // [num_terms]
    int64_t divisor;         // positive, below 2^31
    int64_t num_terms;
    int64_t columns;
};

// Elements start..start+size of the matrix, row-major.
struct Place {
    const uint8_t* base;
    int element;
    uint8_t* out;
    int out_element;
    uint8_t* predicted;  // or null: what `out` less the products gives, in the base's type
    int64_t start;
    int64_t size;
};

struct ProductCounts {
    int64_t nonzero = 0;         // elements that are not zero in `out`
    int64_t wide = 0;            // elements that wide integers decided
    int64_t first_bad = -1;      // the first element of the base that is NaN or infinite, counted from `start`
    int64_t first_overflow = -1; // the first element beyond the range of `out_element`, counted from `start`
};

struct ExactElement {
    double value;   // to odd, or to nearest where the element type is double
    bool is_base;   // the products add exactly nothing
};

// base + or - the products at one element, slow and always right.
template <class Real>
ExactElement exact_element(const Factors<Real>& factors, int64_t row, int64_t column, double base, bool subtract,
                           Rounding rounding);

#define SPIKEMESH_DECLARE(isa)                                                                        \
    namespace isa {                                                                                   \
    void add_products_f32(const Place& place, const Factors<float>& factors, ProductCounts& counts);  \
    void add_products_f64(const Place& place, const Factors<double>& factors, ProductCounts& counts); \
    }
SPIKEMESH_DECLARE(generic)
SPIKEMESH_DECLARE(avx2)
SPIKEMESH_DECLARE(avx512)
#undef SPIKEMESH_DECLARE

}  // namespace spikemesh
