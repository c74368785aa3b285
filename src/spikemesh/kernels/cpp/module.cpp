// The Python module of all kernels.
#include <string>

#include "arrays.hpp"
#include "bindings.hpp"
#include "dispatch.hpp"
#include <nanobind/stl/string.h>

namespace spikemesh {

static nb::tuple names() {
    nb::list names;
    for (const InstructionSet set : instruction_sets()) names.append(name_of(set));
    return nb::tuple(names);
}

static void use_instruction_set(const std::string& name) {
    for (const InstructionSet set : instruction_sets())
        if (name == name_of(set)) return chosen().store(set);
    throw std::invalid_argument("this machine has no instruction set '" + name + "'");
}

}  // namespace spikemesh

NB_MODULE(_native, m) {
    m.attr("instruction_sets") = spikemesh::names();
    m.def("use_instruction_set", &spikemesh::use_instruction_set, spikemesh::nb::arg("name"));
    spikemesh::bind_combine(m);
    spikemesh::bind_products(m);
    spikemesh::bind_currents(m);
    spikemesh::bind_draw(m);
    spikemesh::bind_lif(m);
    spikemesh::bind_settle(m);
    spikemesh::bind_sparse(m);
    spikemesh::bind_spikes(m);
    spikemesh::bind_delta(m);
    spikemesh::bind_events(m);
}
