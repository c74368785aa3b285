// A matrix of synapses times activations in feature-major layout, [features, tokens]: each synapse is one vector operation
// over the tokens. Synapses lie row by row (CSR): row r has those from starts[r] to starts[r + 1], each with its input.
//
// Spikes are bits (spikes.hpp): adding a weight where its input fired is one instruction for sixteen tokens.
#pragma once
#include <cstddef>
#include <cstdint>

#include "spikes.hpp"

namespace spikemesh {

constexpr int64_t kTileTokens = 64;      // of `multiply`: tokens and features that it works on at once,
constexpr int64_t kTileFeatures = 1920;  // half a megabyte, for the second level of the cache

// Inputs are summed 192 at a time, and these sums are added up: less rounding than one long sum, and what a dense product
// does on common processors (MKL's sgemm on AVX2 to the bit). Neurons are sensitive: a last bit can be a spike.
constexpr int64_t kSumInputs = 192;
static_assert(kTileFeatures % kSumInputs == 0);

struct Synapses {
    const int64_t* starts;
    const int32_t* inputs;
    const float* values;
};

struct Range {
    int64_t first, last;
    int64_t size() const { return last - first; }
};

// pack_spikes       the features of x [., T] in `range`, to those from `feature` on of bits [blocks, F, 32]; false if there is
//                   anything but 0 and 1
// multiply_spikes   y [R, T] = synapses * spikes, for the rows in `range` and the tokens of one block
// multiply          the same with any x [F, T], for all rows and at most 64 tokens; scratch: a tile and `next` [R]
// correlate_spikes  grad_values[s] = sum over tokens of grad_y[row of s] where its input fired, for the rows in `range`
// correlate         the same with any x [F, T]
#define SPIKEMESH_DECLARE(isa)                                                                                           \
    namespace isa {                                                                                                      \
    bool pack_spikes(const float* x, int64_t num_tokens, Range range, int64_t feature, int64_t num_features,             \
                     uint8_t* bits);                                                                                     \
    void multiply_spikes(const Synapses& synapses, const uint8_t* bits, int64_t num_features, int64_t num_tokens,        \
                         int64_t block, Range range, float* y);                                                          \
    void multiply(const Synapses& synapses, const float* x, int64_t num_features, int64_t num_rows, int64_t num_tokens,  \
                  Range tokens, float* y, float* tile, int64_t* next);                                                   \
    void correlate_spikes(const Synapses& synapses, const float* grad_y, const uint8_t* bits, int64_t num_features,      \
                          int64_t num_tokens, Range range, float* grad_values);                                          \
    void correlate(const Synapses& synapses, const float* grad_y, const float* x, int64_t num_tokens, Range range,       \
                   float* grad_values);                                                                                  \
    }
SPIKEMESH_DECLARE(generic)
SPIKEMESH_DECLARE(avx2)
SPIKEMESH_DECLARE(avx512)
#undef SPIKEMESH_DECLARE

}  // namespace spikemesh
