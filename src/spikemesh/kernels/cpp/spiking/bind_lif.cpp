// Leaky membranes for Python: flat arrays in one of the two layouts of lif.hpp, potentials one per lane.
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "../arrays.hpp"
#include "../bindings.hpp"
#include "../dispatch.hpp"
#include "lif.hpp"
#include "spikes.hpp"
#include "../threads.hpp"

namespace spikemesh {
namespace {

constexpr int64_t kMaxParts = 16;
constexpr int64_t kPartSteps = 1 << 15;  // steps of one lane that are worth a part

using Maybe = std::optional<In<float>>;
using MaybeOut = std::optional<Out<float>>;

Lanes lanes_of(int64_t num_steps, int64_t num_rows, int64_t num_neurons, bool feature_major) {
    require(num_steps >= 0 && num_rows >= 0, "expected sizes from 0 on");
    if (feature_major) return {num_steps, num_rows, num_neurons, num_steps * num_rows, num_rows, false};
    return {num_steps, num_neurons, num_rows, num_neurons, num_rows * num_neurons, true};
}

template <class Array>
void require_size(const Array& array, int64_t size) {
    require(static_cast<int64_t>(array.size()) == size, "expected arrays of sizes that fit each other");
}

template <class Array>
void require_size(const std::optional<Array>& array, int64_t size) {
    if (array) require_size(*array, size);
}

const float* data_of(const Maybe& array) { return array ? array->data() : nullptr; }

// How many parts the lanes are cut into. It depends on sizes alone, so sums are the same whatever the threads.
int64_t num_parts(const Lanes& lanes) {
    const int64_t work = lanes.num_steps * lanes.inner_size * lanes.outer_size / kPartSteps;
    return std::max<int64_t>(std::min({work, lanes.outer_size, kMaxParts}), 1);
}

// Calls work(part, first outer, last outer, scratch).
template <class Work>
void for_parts(const Lanes& lanes, int num_threads, const Work& work) {
    if (lanes.inner_size == 0) return;
    const int64_t parts = num_parts(lanes);
    num_threads = static_cast<int>(std::min<int64_t>(num_threads, parts));
    const Scratch<float> scratch(lif_scratch(lanes), num_threads);
    run([&] {
        for_each(parts, num_threads, [&](int64_t part, int worker) {
            work(part, lanes.outer_size * part / parts, lanes.outer_size * (part + 1) / parts, scratch.of(worker));
        });
    });
}

void lif_forward(In<float> x, Maybe v0, In<float> leak, Maybe threshold, MaybeOut y, std::optional<Out<uint8_t>> bits,
                 Out<float> v, int64_t num_steps, int64_t num_rows, bool feature_major, int num_threads) {
    const int64_t num_neurons = static_cast<int64_t>(leak.size()), num_lanes = num_rows * num_neurons;
    const Lanes lanes = lanes_of(num_steps, num_rows, num_neurons, feature_major);
    require_size(x, num_steps * num_lanes);
    require(y.has_value() != bits.has_value(), "expected room for spikes as floats or as bits");
    require(!bits || (feature_major && threshold), "expected a threshold and [N, L, B] for spikes as bits");
    require_size(y, num_steps * num_lanes);
    require_size(bits, num_blocks(num_steps * num_rows) * num_neurons * kBlockBytes);
    require_size(v0, num_lanes);
    require_size(v, num_lanes);
    require_size(threshold, num_neurons);
    require(num_threads > 0, "expected at least one thread");
    if (bits) std::memset(bits->data(), 0, bits->size());
    const LifForward job{lanes,     x.data(), data_of(v0), leak.data(), data_of(threshold), y ? y->data() : nullptr,
                         v.data(), bits ? bits->data() : nullptr};
    for_parts(lanes, num_threads, [&](int64_t, int64_t first, int64_t last, float* scratch) {
        SPIKEMESH_PICK(lif_forward)(job, first, last, scratch);
    });
}

// Sets of sums over neurons, added in the order of the parts.
void add_up(const std::vector<double>& sums, int64_t num_neurons, float* out) {
    for (int64_t n = 0; n < num_neurons; ++n) {
        double sum = 0.0;
        for (size_t at = static_cast<size_t>(n); at < sums.size(); at += static_cast<size_t>(num_neurons)) sum += sums[at];
        out[n] = static_cast<float>(sum);
    }
}

void lif_backward(In<float> x, Maybe v0, In<float> leak, Maybe threshold, float sharpness, In<float> grad_y, Maybe grad_v,
                  Out<float> grad_x, MaybeOut grad_v0, Out<float> grad_leak, MaybeOut grad_threshold, int64_t num_steps,
                  int64_t num_rows, bool feature_major, int num_threads) {
    const int64_t num_neurons = static_cast<int64_t>(leak.size()), num_lanes = num_rows * num_neurons;
    const Lanes lanes = lanes_of(num_steps, num_rows, num_neurons, feature_major);
    for (const auto* array : {&x, &grad_y}) require_size(*array, num_steps * num_lanes);
    require_size(grad_x, num_steps * num_lanes);
    require_size(v0, num_lanes);
    require_size(grad_v, num_lanes);
    require_size(grad_v0, num_lanes);
    require_size(grad_leak, num_neurons);
    require(threshold.has_value() == grad_threshold.has_value(), "expected a threshold and its gradient, or neither");
    require_size(threshold, num_neurons);
    require_size(grad_threshold, num_neurons);
    require(num_threads > 0, "expected at least one thread");
    const LifBackward job{lanes,         sharpness,       x.data(),      data_of(v0),     leak.data(), data_of(threshold),
                          grad_y.data(), data_of(grad_v), grad_x.data(), grad_v0 ? grad_v0->data() : nullptr};
    // Feature-major, a neuron lies in one part, so one set of sums does for all.
    const int64_t sets = feature_major ? 1 : num_parts(lanes);
    std::vector<double> leaks(static_cast<size_t>(sets * num_neurons)), thresholds(leaks.size());
    for_parts(lanes, num_threads, [&](int64_t part, int64_t first, int64_t last, float* scratch) {
        const int64_t set = feature_major ? 0 : part * num_neurons;
        SPIKEMESH_PICK(lif_backward)(job, first, last, scratch, leaks.data() + set, thresholds.data() + set);
    });
    add_up(leaks, num_neurons, grad_leak.data());
    if (grad_threshold) add_up(thresholds, num_neurons, grad_threshold->data());
}

}  // namespace

void bind_lif(nb::module_& m) {
    m.def("lif_forward", &lif_forward, nb::arg("x"), nb::arg("v0").none(), nb::arg("leak"), nb::arg("threshold").none(),
          nb::arg("y").none(), nb::arg("bits").none(), nb::arg("v"), nb::arg("num_steps"), nb::arg("num_rows"), nb::arg("feature_major"), nb::arg("num_threads"));
    m.def("lif_backward", &lif_backward, nb::arg("x"), nb::arg("v0").none(), nb::arg("leak"), nb::arg("threshold").none(),
          nb::arg("sharpness"), nb::arg("grad_y"), nb::arg("grad_v").none(), nb::arg("grad_x"), nb::arg("grad_v0").none(),
          nb::arg("grad_leak"), nb::arg("grad_threshold").none(), nb::arg("num_steps"), nb::arg("num_rows"),
          nb::arg("feature_major"), nb::arg("num_threads"));
}

}  // namespace spikemesh
