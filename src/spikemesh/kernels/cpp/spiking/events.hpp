// One token through a spiking network, event by event: only the synapses of neurons that spiked are read.
//
// One lane (a single text) *pushes*: synapses lie by presynaptic neuron, a spike adds its synapses to their targets.
// Many lanes *pull*: synapses lie by postsynaptic neuron, whose currents in 32 texts stay in registers while each of its
// synapses is added where its source spiked. Both add a neuron's currents in the order of its sources, so one text has
// the same bits either way, and so has the NumPy twin.
//
// Letters: D width of the stream, H hidden neurons of a block, K input delays, A axon delays.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../inline.hpp"

namespace spikemesh {

// The same numbers as kernels/events.py. Int4: two in a byte, the first in the low half, and an even number per list.
enum class Weights : int { Float = 0, Int8 = 1, Int4 = 2 };

constexpr int kVocab = 256;
constexpr int kLanes = 32;      // texts in one pull: a spike is one bit of a word
constexpr int kMaxNeurons = 1 << 16;  // of one population, so that a synapse's index is 16 bits

// Lists of synapses, one for each neuron on one side: `indices` names the neurons on the other.
struct SynapseLists {
    int num_lists;
    const uint32_t* starts;  // [num_lists + 1], in synapses
    const uint16_t* indices;
    const void* weights;
};

struct Population {
    int size;
    const float* leak;
    const float* threshold;
};

// Hidden neurons reach the stream's D neurons and then the 256 of the readout: D + 256 targets of one set of synapses.
// Scales turn sums of integer weights into currents, one per target; null for float weights.
struct EventBlock {
    Population stream, hidden;
    SynapseLists w_in, w_out;
    const float* in_scale;
    const float* out_scale;
};

struct EventNetwork {
    Weights weights;
    bool pull;
    int width, num_input_delays, num_axon_delays;
    const float* embedding;  // [256, D]
    const float* delay_mix;  // [K, D]
    int num_blocks;
    const EventBlock* blocks;
    Population output;
    SynapseLists head;  // from the output neurons to the readout
    const float* head_scale;  // the last 256 of each out_scale are the same
    const float* readout_leak;
    const float* bias;
};

// What is remembered between tokens. Rings are indexed by the token's number modulo their length.
struct EventState {
    int num_lanes;           // 1 to push, 32 to pull
    int64_t clock;           // number of this token
    const int32_t* token;    // [num_lanes]
    uint32_t counted_lanes;  // whose spikes are counted: fewer texts than lanes leave some idle
    int32_t* tokens;         // [K, num_lanes]; -1 is none yet
    float* potentials;       // [neurons, num_lanes]: each block's stream and hidden neurons, then output, then readout
    uint32_t* sent;          // [blocks, A, D]: bit l is lane l's spike
    int64_t* spikes;         // [populations]: spikes so far, of all lanes
    float* logits;           // [num_lanes, 256]
    uint8_t* scratch;        // event_scratch(network) bytes, on a cache line
};

INLINE int largest_population(const EventNetwork& net) {
    int largest = net.width;
    for (int b = 0; b < net.num_blocks; ++b)
        if (net.blocks[b].hidden.size > largest) largest = net.blocks[b].hidden.size;
    return largest;
}

// Numbers of four bytes: pull has 32 currents for each channel of the stream and each readout neuron, and a word of spikes
// for each neuron; push has five numbers or fewer for each neuron, and one for each readout neuron.
INLINE size_t event_scratch(const EventNetwork& net) {
    const size_t width = static_cast<size_t>(net.width), largest = static_cast<size_t>(largest_population(net));
    return 4 * (net.pull ? (width + kVocab) * kLanes + width + largest + 64 : 5 * (largest + 64) + kVocab);
}

#define SPIKEMESH_DECLARE(isa)                                              \
    namespace isa {                                                         \
    void step_events(const EventNetwork& network, const EventState& state); \
    }
SPIKEMESH_DECLARE(generic)
SPIKEMESH_DECLARE(avx2)
SPIKEMESH_DECLARE(avx512)
#undef SPIKEMESH_DECLARE

}  // namespace spikemesh
