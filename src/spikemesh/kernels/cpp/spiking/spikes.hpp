// Spikes as bits. Tokens are cut into blocks of 256, and a block holds 32 bytes for each neuron, [blocks, neurons, 32]: what
// a product reads of one block stays in the cache. The first token of a byte is its lowest bit; behind the last token are zeros.
#pragma once
#include <cstdint>
#include <cstring>

#include "../inline.hpp"

namespace spikemesh {

constexpr int64_t kBlockTokens = 256;
constexpr int64_t kBlockBytes = kBlockTokens / 8;
constexpr int64_t kBlockWords = kBlockBytes / 8;

INLINE int64_t num_blocks(int64_t num_tokens) { return (num_tokens + kBlockTokens - 1) / kBlockTokens; }
INLINE int64_t num_words(int64_t num_tokens) { return (num_tokens + 63) / 64; }

// Where the bits of a neuron's tokens 64 * word .. 64 * word + 63 lie.
INLINE int64_t place_of(int64_t word, int64_t neuron, int64_t num_neurons) {
    return (word / kBlockWords * num_neurons + neuron) * kBlockBytes + word % kBlockWords * 8;
}

}  // namespace spikemesh
