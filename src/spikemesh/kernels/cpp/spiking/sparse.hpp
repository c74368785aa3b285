// A matrix of synapses times activations in feature-major layout, [features, tokens]: each synapse is one vector operation
// over the tokens. Activations are floats, or spikes as bits (spikes.hpp).
//
// A few tokens of many inputs are brought together in a *tile*, spikes as zeros and ones: in place, rows of tokens lie apart,
// often by a power of two, which a cache takes for the same place. The tile stays in the second level of the cache, and as many
// sums as there are registers for stay in these while the synapses of a row run by.
#pragma once
#include <cstddef>
#include <cstdint>

#include "spikes.hpp"

namespace spikemesh {

constexpr int64_t kTileTokens = 256;     // that one call of `multiply` is given
constexpr int64_t kMaxPassTokens = 128;  // that lie in a tile at once: fewer where registers are
constexpr int64_t kTileInputs = 1344;    // a third of a megabyte on AVX2

// Inputs are summed 192 at a time, and these sums are added up: less rounding than one long sum, and what a dense product
// does on common processors (MKL's sgemm on AVX2 to the bit). Neurons are sensitive: a last bit can be a spike.
constexpr int64_t kSumInputs = 192;
static_assert(kTileInputs % kSumInputs == 0);

INLINE int64_t num_sums(int64_t num_inputs) { return num_inputs == 0 ? 1 : (num_inputs + kSumInputs - 1) / kSumInputs; }

struct Range {
    int64_t first, last;
    INLINE_MEMBER int64_t size() const { return last - first; }
};

// The synapses of sum k of row r are bounds[r * num_sums + k] to the next bound, each with its input, in order.
struct Synapses {
    int64_t num_inputs, num_rows, num_sums;
    const int32_t* bounds;
    const int32_t* inputs;
    const float* values;
};

// What the synapses read: spikes where there are `bits`, else x [inputs, tokens].
struct Activations {
    int64_t num_tokens;
    const float* x;
    const uint8_t* bits;
};

// Floats of scratch for one call of `multiply` or `correlate`.
INLINE int64_t tile_size(int64_t num_inputs) { return kMaxPassTokens * (num_inputs < kTileInputs ? num_inputs : kTileInputs); }

// pack_spikes  the features of x [., T] in `range`, to those from `feature` on of bits [blocks, F, 32]; false if there is
//              anything but 0 and 1
// multiply     y [R, T] = synapses * activations, for the tokens in `tokens`, which begin at a multiple of kTileTokens
// correlate    grad_values[s] = sum over tokens of grad_y [R, T] at the row of s times its input, for the rows in `rows`
#define SPIKEMESH_DECLARE(isa)                                                                                            \
    namespace isa {                                                                                                       \
    bool pack_spikes(const float* x, int64_t num_tokens, Range range, int64_t feature, int64_t num_features,              \
                     uint8_t* bits);                                                                                      \
    void multiply(const Synapses& synapses, const Activations& from, Range tokens, float* y, float* tile);                \
    void correlate(const Synapses& synapses, const Activations& from, const float* grad_y, Range rows, float* grad_values, \
                   float* tile);                                                                                          \
    }
SPIKEMESH_DECLARE(generic)
SPIKEMESH_DECLARE(avx2)
SPIKEMESH_DECLARE(avx512)
#undef SPIKEMESH_DECLARE

}  // namespace spikemesh
