// Neurons of a run's start for Python, row after row of a weight matrix.
#include <algorithm>

#include "../arrays.hpp"
#include "../bindings.hpp"
#include "../dispatch.hpp"
#include "../threads.hpp"
#include "settle.hpp"
#include "spikes.hpp"

namespace spikemesh {
namespace {

void require_columns(const In<int32_t>& columns, int64_t num_inputs) {
    for (size_t i = 0; i < columns.size(); ++i)
        require(columns.data()[i] >= 0 && columns.data()[i] < num_inputs, "expected columns among the inputs");
}

void settle(Out<float> currents, In<uint8_t> bits, In<int32_t> columns, Out<float> weights, Out<float> thresholds,
            Out<uint8_t> spikes, int64_t first_neuron, int64_t num_neurons, int64_t num_inputs, int64_t num_steps,
            int64_t num_lanes, int64_t max_spikes, float leak, float span, int rate_steps, int drift_steps,
            float potentiation_leak, float depression_leak, float potentiation, float depression, float max_offset,
            int num_threads) {
    require(num_steps > 0 && num_lanes > 0 && num_neurons >= 0 && num_inputs >= 0, "expected sizes from 0 on, and a token");
    require(num_threads > 0, "expected at least one thread");
    const int64_t num_tokens = num_steps * num_lanes, num_rows = static_cast<int64_t>(thresholds.size());
    require(static_cast<int64_t>(currents.size()) == num_rows * num_tokens, "expected currents [rows, tokens]");
    require(static_cast<int64_t>(bits.size()) == num_blocks(num_tokens) * num_inputs * kBlockBytes, "expected the inputs' bits");
    require(columns.size() == weights.size(), "expected a weight for each column");
    require(static_cast<int64_t>(spikes.size()) == num_blocks(num_tokens) * num_neurons * kBlockBytes, "expected room for bits");
    require(first_neuron >= 0 && first_neuron + num_rows <= num_neurons, "expected neurons that there are");
    if (num_rows == 0) return;
    require(columns.size() % static_cast<size_t>(num_rows) == 0, "expected whole rows of synapses");
    require_columns(columns, num_inputs);
    const Settling job{num_steps,         num_lanes,       max_spikes,   leak,       span,      rate_steps, drift_steps,
                       potentiation_leak, depression_leak, potentiation, depression, max_offset};
    const Inputs inputs{bits.data(), num_inputs, static_cast<int64_t>(columns.size()) / num_rows};
    num_threads = static_cast<int>(std::min<int64_t>(num_threads, num_rows));
    const Scratch<float> scratch(settle_scratch(job), num_threads);
    run([&] {
        for_each(num_rows, num_threads, [&](int64_t row, int worker) {
            thresholds.data()[row] = SPIKEMESH_PICK(settle)(
                job, inputs, columns.data() + row * inputs.fan_in, weights.data() + row * inputs.fan_in,
                currents.data() + row * num_tokens, scratch.of(worker), spikes.data(), first_neuron + row, num_neurons);
        });
    });
}

}  // namespace

void bind_settle(nb::module_& m) {
    m.def("settle", &settle, nb::arg("currents"), nb::arg("bits"), nb::arg("columns"), nb::arg("weights"), nb::arg("thresholds"),
          nb::arg("spikes"), nb::arg("first_neuron"), nb::arg("num_neurons"), nb::arg("num_inputs"), nb::arg("num_steps"),
          nb::arg("num_lanes"), nb::arg("max_spikes"), nb::arg("leak"), nb::arg("span"), nb::arg("rate_steps"),
          nb::arg("drift_steps"), nb::arg("potentiation_leak"), nb::arg("depression_leak"), nb::arg("potentiation"),
          nb::arg("depression"), nb::arg("max_offset"), nb::arg("num_threads"));
}

}  // namespace spikemesh
