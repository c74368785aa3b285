// The Python module of all kernels.
#include "bindings.hpp"
#include "dispatch.hpp"

NB_MODULE(_native, m) {
    m.attr("instruction_set") = spikemesh::name_of(spikemesh::instruction_set());
    spikemesh::bind_combine(m);
}
