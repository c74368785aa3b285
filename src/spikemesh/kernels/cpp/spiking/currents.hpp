// The currents that tokens send into the stream, in feature-major layout: for each channel a mixture of the embeddings of the
// last few tokens,  u[t] = sum over k of mix[k] * embedding[token[t - k]].
//
// Sixteen channels at a time: their products mix[k] * embedding[v] are tables, and a token is one look-up per delay.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../inline.hpp"

namespace spikemesh {

constexpr int64_t kChannels = 16;

struct Currents {
    int64_t num_delays, num_values, num_channels;
    int64_t num_rows, num_tokens;  // batch; steps times batch
    const int32_t* history;        // num_delays - 1 steps before the first one, then the steps; num_values: no token
    const float *embedding, *mix;  // [values, channels], [delays, channels]
};

INLINE int64_t table_size(const Currents& currents) { return currents.num_delays * (currents.num_values + 1) * kChannels; }

// For the sixteen channels from `channel` on: u [channels, tokens], or from its gradient those of embedding and mix.
#define SPIKEMESH_DECLARE(isa)                                                                                              \
    namespace isa {                                                                                                         \
    void currents_forward(const Currents& currents, int64_t channel, float* u, float* tables);                              \
    void currents_backward(const Currents& currents, int64_t channel, const float* grad_u, float* grad_embedding,           \
                           float* grad_mix, float* tables);                                                                 \
    }
SPIKEMESH_DECLARE(generic)
SPIKEMESH_DECLARE(avx2)
SPIKEMESH_DECLARE(avx512)
#undef SPIKEMESH_DECLARE

}  // namespace spikemesh
