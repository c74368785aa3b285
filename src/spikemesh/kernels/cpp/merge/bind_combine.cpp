// combine and scan for Python: raw bytes in, plain numbers out, the GIL released while they run.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <vector>

#include "../arrays.hpp"
#include "../bindings.hpp"
#include "combine.hpp"
#include "../dispatch.hpp"
#include "elements.hpp"

namespace spikemesh {
namespace {

nb::tuple combine(int rule, const std::vector<In<uint8_t>>& inputs, const std::vector<int64_t>& weights, int64_t divisor,
                  std::optional<In<uint8_t>> base, std::optional<In<uint8_t>> mask, int element, int out_element, Out<uint8_t> out) {
    const Format in = format_of(element), result = format_of(out_element);
    require(rule >= ACTIVE_MEAN && rule <= MAX_MAGNITUDE, "unknown rule");
    require(in.size && result.size, "unknown element type");
    require(!inputs.empty() && inputs.size() <= kMaxInputs, "expected 1 to 256 inputs");
    require(inputs.size() == weights.size(), "expected one weight per input");
    require(out.size() % result.size == 0, "out does not hold whole elements");
    Window window{};
    window.size = static_cast<int64_t>(out.size()) / result.size;
    const size_t in_bytes = static_cast<size_t>(window.size) * in.size;
    std::vector<const uint8_t*> pointers;
    int64_t total = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
        require(inputs[i].size() == in_bytes, "expected inputs of the size of out");
        require(weights[i] > 0 && weights[i] <= kMaxWeight, "expected weights of 1 to 2**28");
        total += weights[i];
        pointers.push_back(inputs[i].data());
    }
    require(divisor > 0 && divisor <= kMaxWeight - total, "expected weights and divisor of at most 2**28 together");
    require(!base || base->size() == in_bytes, "expected a base of the size of out");
    require(!mask || mask->size() == static_cast<size_t>(window.size), "expected one mask byte per coordinate");
    window.rule = rule;
    window.num_inputs = static_cast<int>(inputs.size());
    window.inputs = pointers.data();
    window.weights = weights.data();
    window.divisor = divisor;
    window.base = base ? base->data() : nullptr;
    window.mask = mask ? mask->data() : nullptr;
    window.element = element;
    window.out_element = out_element;
    window.out = out.data();
    Counts counts;
    run([&] { SPIKEMESH_PICK(combine)(window, counts); });
    nb::list bad;
    for (int i = 0; i < window.num_inputs; ++i) bad.append(counts.first_bad[i]);
    return nb::make_tuple(counts.held, counts.nonzero, counts.vanished, counts.first_overflow, bad, counts.first_bad_base);
}

nb::tuple scan(In<uint8_t> data, int element) {
    const Format format = format_of(element);
    require(format.size && data.size() % format.size == 0, "expected whole elements of a known type");
    Scan result;
    run([&] { SPIKEMESH_PICK(scan)(data.data(), element, static_cast<int64_t>(data.size()) / format.size, result); });
    return nb::make_tuple(result.nonzero, result.non_finite, result.smallest, result.largest);
}

}  // namespace

void bind_combine(nb::module_& m) {
    m.def("combine", &combine, nb::arg("rule"), nb::arg("inputs"), nb::arg("weights"), nb::arg("divisor"),
          nb::arg("base").none(), nb::arg("mask").none(), nb::arg("element"), nb::arg("out_element"), nb::arg("out"));
    m.def("scan", &scan, nb::arg("data"), nb::arg("element"));
}

}  // namespace spikemesh
