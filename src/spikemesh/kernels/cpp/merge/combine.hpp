// Several checkpoints' values of one tensor window into one: exact rational arithmetic, rounded once.
//
// Every rule ends in  sum of weight_i * value_i over the chosen inputs, divided by an integer.  The sum is kept as an
// exact pair of doubles (TwoSum, Knuth 1969), the quotient is rounded to odd and then once to the element type, which is
// the correct rounding of the exact rational (Boldo & Melquiond 2008). What does not fit the pair goes to exact.hpp.
#pragma once
#include <cstddef>
#include <cstdint>

namespace spikemesh {

// The same numbers as kernels/combine.py.
enum Rule : int { ACTIVE_MEAN = 0, MEAN = 1, SUM = 2, TRIMMED_MEAN = 3, SIGN_ELECT = 4, MAX_MAGNITUDE = 5 };

constexpr int kMaxInputs = 256;
constexpr int64_t kNone = -1;
constexpr int64_t kMaxWeight = int64_t{1} << 28;  // all together: times 24 significand bits, a product fits a double

struct Window {
    int rule;
    int num_inputs;
    const uint8_t* const* inputs;  // raw elements of type `element`
    const int64_t* weights;        // positive
    int64_t divisor;               // of SUM; the other rules divide by weights
    const uint8_t* base;           // or null: raw elements of type `element`
    const uint8_t* mask;           // or null: one byte per coordinate, not 0 = held by every input
    int element;
    int out_element;
    uint8_t* out;
    int64_t size;  // coordinates
};

// A coordinate with a value (or base) that is NaN or infinite becomes zero, and is counted as nothing but that.
struct Counts {
    int64_t held = 0;                     // coordinates that some input holds
    int64_t nonzero = 0;                  // coordinates that are not zero in `out`
    int64_t vanished = 0;                 // not zero, but zero in `out_element`
    int64_t first_overflow = kNone;       // first coordinate beyond the range of `out_element`
    int64_t first_bad[kMaxInputs];        // per input: first coordinate that is NaN or infinite
    int64_t first_bad_base = kNone;
};

struct Scan {
    int64_t nonzero = 0;
    int64_t non_finite = 0;
    double smallest = 0.0;  // over finite values; 0 and 0 when there is none
    double largest = 0.0;
};

#define SPIKEMESH_DECLARE(isa)                                      \
    namespace isa {                                                 \
    void combine(const Window& window, Counts& counts);             \
    void scan(const uint8_t* data, int element, int64_t size, Scan& result); \
    }
SPIKEMESH_DECLARE(generic)
SPIKEMESH_DECLARE(avx2)
SPIKEMESH_DECLARE(avx512)
#undef SPIKEMESH_DECLARE

}  // namespace spikemesh
