// One neuron of a run's start: what it receives on a sample, the threshold at which it fires at a given rate, and the offset of
// its weights at which STDP would neither strengthen nor weaken them. `snn/init.py` says why; here it is how, to the bit: each
// float operation is rounded where it is written, and each sum has its order.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../inline.hpp"

namespace spikemesh {

struct Settling {
    int64_t num_steps, num_lanes;  // L, B: tokens lie as [L, B]
    int64_t max_spikes;            // on the sample, at the target rate
    float leak, span;              // span: 1 / (1 - leak), what a constant current of 1 would charge a membrane to
    int rate_steps, drift_steps;   // bisections
    float potentiation_leak, depression_leak, potentiation, depression;
    float max_offset;  // in standard deviations of the neuron's weights
};

struct Inputs {
    const uint8_t* bits;  // spikes of all inputs, see spikes.hpp
    int64_t num_inputs, fan_in;
};

INLINE int64_t padded_lanes(const Settling& job) { return (job.num_lanes + 15) / 16 * 16; }

// Floats of room that `settle` wants, aligned to cache lines.
inline int64_t settle_scratch(const Settling& job) {
    const int64_t tokens = (job.num_steps * job.num_lanes + 31) / 32 * 32;
    return 4 * job.num_steps * padded_lanes(job) + 2 * tokens;
}

// currents [L, B]: those from elsewhere, then with those from the inputs, shifted. The offset is added to weights [fan_in].
// Returns the threshold; the spikes go to neuron `neuron` of `num_neurons` in `spikes`, whose bits are zero.
#define SPIKEMESH_DECLARE(isa)                                                                                            \
    namespace isa {                                                                                                       \
    float settle(const Settling& job, const Inputs& inputs, const int32_t* columns, float* weights, float* currents,      \
                 float* scratch, uint8_t* spikes, int64_t neuron, int64_t num_neurons);                                   \
    }
SPIKEMESH_DECLARE(generic)
SPIKEMESH_DECLARE(avx2)
SPIKEMESH_DECLARE(avx512)
#undef SPIKEMESH_DECLARE

}  // namespace spikemesh
