// The Python face of the kernels: plain contiguous arrays in, plain numbers out, the GIL released while they run.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "combine.hpp"
#include "elements.hpp"

namespace nb = nanobind;

namespace spikemesh {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Writable = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// The best instruction set that this processor has, chosen once.
struct Implementation {
    const char* name;
    void (*combine)(const Window&, Counts&);
    void (*scan)(const uint8_t*, int, int64_t, Scan&);
};

Implementation choose() {
#if defined(SPIKEMESH_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return {"avx512", avx512::combine, avx512::scan};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        return {"avx2", avx2::combine, avx2::scan};
#endif
    return {"generic", generic::combine, generic::scan};
}

const Implementation& implementation() {
    static const Implementation chosen = choose();
    return chosen;
}

void require(bool holds, const char* message) {
    if (!holds) throw std::invalid_argument(message);
}

nb::tuple combine(int rule, const std::vector<Bytes>& inputs, const std::vector<int64_t>& weights, int64_t divisor,
                  std::optional<Bytes> base, std::optional<Bytes> mask, int element, int out_element, Writable out) {
    const Format in = format_of(element), result = format_of(out_element);
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
    require(divisor > 0 && total + divisor <= kMaxWeight, "expected weights and divisor of at most 2**28 together");
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
    {
        nb::gil_scoped_release release;
        implementation().combine(window, counts);
    }
    nb::list bad;
    for (int i = 0; i < window.num_inputs; ++i) bad.append(counts.first_bad[i]);
    return nb::make_tuple(counts.held, counts.nonzero, counts.vanished, counts.first_overflow, bad, counts.first_bad_base);
}

nb::tuple scan(Bytes data, int element) {
    const Format format = format_of(element);
    require(format.size && data.size() % format.size == 0, "expected whole elements of a known type");
    Scan result;
    {
        nb::gil_scoped_release release;
        implementation().scan(data.data(), element, static_cast<int64_t>(data.size()) / format.size, result);
    }
    return nb::make_tuple(result.nonzero, result.non_finite, result.smallest, result.largest);
}

}  // namespace
}  // namespace spikemesh

NB_MODULE(_native, m) {
    using namespace spikemesh;
    m.attr("instruction_set") = implementation().name;
    m.def("combine", &spikemesh::combine, nb::arg("rule"), nb::arg("inputs"), nb::arg("weights"), nb::arg("divisor"),
          nb::arg("base").none(), nb::arg("mask").none(), nb::arg("element"), nb::arg("out_element"), nb::arg("out"));
    m.def("scan", &spikemesh::scan, nb::arg("data"), nb::arg("element"));
}
