// The event-driven network for Python: arrays are checked once, when it is made; a step is one call without the GIL.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "../arrays.hpp"
#include "../bindings.hpp"
#include "../dispatch.hpp"
#include "events.hpp"

namespace spikemesh {
namespace {

using PopulationArrays = std::tuple<In<float>, In<float>>;  // leak, threshold
// starts, indices, weights as raw bytes, scale of each postsynaptic neuron
using SynapseArrays = std::tuple<In<uint32_t>, In<uint16_t>, In<uint8_t>, std::optional<In<float>>>;

Population population_of(const PopulationArrays& arrays) {
    const auto& [leak, threshold] = arrays;
    require(leak.size() > 0 && leak.size() <= kMaxNeurons && leak.size() == threshold.size(),
            "expected a leak and a threshold for each of 1 to 65,536 neurons");
    return {static_cast<int>(leak.size()), leak.data(), threshold.data()};
}

// `pre` and `post` neurons; the lists are per presynaptic neuron to push, per postsynaptic one to pull.
SynapseLists synapses_of(const SynapseArrays& arrays, Weights kind, bool pull, int pre, int post) {
    const auto& [starts, indices, weights, scale] = arrays;
    const size_t num_lists = static_cast<size_t>(pull ? post : pre), num = indices.size();
    require(starts.size() == num_lists + 1 && starts(0) == 0 && starts(num_lists) == num,
            "expected one list of synapses per neuron, from the first synapse to the last");
    require(num < UINT32_MAX, "expected fewer than 2**32 synapses");
    for (size_t i = 0; i < num_lists; ++i) {
        require(starts(i) <= starts(i + 1), "expected the starts of lists in order");
        require(kind != Weights::Int4 || starts(i) % 2 == 0, "expected an even number of 4-bit weights in each list");
    }
    const size_t bound = static_cast<size_t>(pull ? pre : post);
    bool inside = true;
    for (size_t j = 0; j < num; ++j) inside &= indices(j) < bound;
    require(inside, "expected synapses between neurons that are there");
    require(weights.size() == (kind == Weights::Float ? 4 * num : kind == Weights::Int8 ? num : num / 2),
            "expected one weight per synapse");
    require(kind == Weights::Float || (scale && scale->size() == static_cast<size_t>(post)),
            "expected a scale for each neuron that integer weights lead to");
    return {static_cast<int>(num_lists), starts.data(), indices.data(), weights.data()};
}

const float* scale_of(const SynapseArrays& arrays) {
    const auto& scale = std::get<3>(arrays);
    return scale ? scale->data() : nullptr;
}

// Holds its arrays, so that their memory stays.
class Events {
  public:
    Events(int weights, bool pull, int num_axon_delays, In<float> embedding, In<float> delay_mix,
           std::vector<PopulationArrays> populations, std::vector<SynapseArrays> synapses, In<float> readout_leak, In<float> bias)
        : embedding_(embedding), delay_mix_(delay_mix), readout_leak_(readout_leak), bias_(bias),
          populations_(std::move(populations)), synapses_(std::move(synapses)) {
        require(weights >= 0 && weights <= 2, "unknown kind of weights");
        require(populations_.size() % 2 == 1 && synapses_.size() == populations_.size(),
                "expected two populations and two sets of synapses per block, then one of each");
        network_.weights = static_cast<Weights>(weights);
        network_.pull = pull;
        network_.output = population_of(populations_.back());
        const int width = network_.width = network_.output.size;
        require(width + kVocab <= kMaxNeurons, "expected a stream of at most 65,280 channels");
        require(embedding.size() == static_cast<size_t>(kVocab) * width, "expected an embedding of 256 rows");
        require(delay_mix.size() > 0 && delay_mix.size() % width == 0, "expected a delay mix of whole rows");
        require(num_axon_delays > 0, "expected at least one axon delay, that of none");
        require(readout_leak.size() == kVocab && bias.size() == kVocab, "expected 256 readout neurons");
        network_.num_input_delays = static_cast<int>(delay_mix.size() / width);
        network_.num_axon_delays = num_axon_delays;
        network_.embedding = embedding.data();
        network_.delay_mix = delay_mix.data();
        network_.readout_leak = readout_leak.data();
        network_.bias = bias.data();
        for (size_t b = 0; b < populations_.size() / 2; ++b) {
            EventBlock block{};
            block.stream = population_of(populations_[2 * b]);
            block.hidden = population_of(populations_[2 * b + 1]);
            require(block.stream.size == width, "expected stream populations of one width");
            const SynapseArrays *in = &synapses_[2 * b], *out = in + 1;
            block.w_in = synapses_of(*in, network_.weights, pull, width, block.hidden.size);
            block.w_out = synapses_of(*out, network_.weights, pull, block.hidden.size, width + kVocab);
            block.in_scale = scale_of(*in);
            block.out_scale = scale_of(*out);
            blocks_.push_back(block);
            neurons_ += static_cast<size_t>(width) + block.hidden.size;
        }
        network_.num_blocks = static_cast<int>(blocks_.size());
        network_.blocks = blocks_.data();
        network_.head = synapses_of(synapses_.back(), network_.weights, pull, width, kVocab);
        network_.head_scale = scale_of(synapses_.back());
        neurons_ += static_cast<size_t>(width) + kVocab;
    }

    void step(int64_t clock, In<int32_t> token, uint32_t counted_lanes, Out<int32_t> tokens, Out<float> potentials,
              Out<uint32_t> sent, Out<int64_t> spikes, Out<float> logits) const {
        const size_t lanes = network_.pull ? kLanes : 1;
        require(clock >= 0, "expected a clock that is not negative");
        require(token.size() == lanes && tokens.size() == lanes * network_.num_input_delays, "expected a token per lane");
        for (size_t l = 0; l < lanes; ++l) require(token(l) >= 0 && token(l) < kVocab, "expected tokens of 0..255");
        for (size_t i = 0; i < tokens.size(); ++i) require(tokens(i) >= -1 && tokens(i) < kVocab, "expected tokens of -1..255");
        require(potentials.size() == lanes * neurons_, "expected a potential per neuron and lane");
        require(sent.size() == blocks_.size() * network_.num_axon_delays * network_.width,
                "expected the spikes of each block's stream for each delay");
        require(spikes.size() == populations_.size() && logits.size() == lanes * kVocab, "expected counts and logits");
        const EventState state{static_cast<int>(lanes), clock, token.data(), counted_lanes, tokens.data(),
                               potentials.data(), sent.data(), spikes.data(), logits.data(), scratch()};
        run([&] { SPIKEMESH_PICK(step_events)(network_, state); });
    }

  private:
    // Kept by the thread, for the largest network that it has seen.
    uint8_t* scratch() const {
        static thread_local std::vector<uint8_t> memory;
        const size_t num_bytes = event_scratch(network_) + kLine;
        if (memory.size() < num_bytes) memory.resize(num_bytes);
        return memory.data() + (kLine - reinterpret_cast<uintptr_t>(memory.data()) % kLine);
    }

    static constexpr size_t kLine = 64;
    In<float> embedding_, delay_mix_, readout_leak_, bias_;
    std::vector<PopulationArrays> populations_;
    std::vector<SynapseArrays> synapses_;
    std::vector<EventBlock> blocks_;
    EventNetwork network_{};
    size_t neurons_ = 0;
};

}  // namespace

void bind_events(nb::module_& m) {
    nb::class_<Events>(m, "Events")
        .def(nb::init<int, bool, int, In<float>, In<float>, std::vector<PopulationArrays>, std::vector<SynapseArrays>, In<float>, In<float>>())
        .def("step", &Events::step, nb::arg(), nb::arg(), nb::arg(), nb::arg().noconvert(), nb::arg().noconvert(),
             nb::arg().noconvert(), nb::arg().noconvert(), nb::arg().noconvert());  // a copy would take what is written
}

}  // namespace spikemesh
