// One function per family of kernels adds it to the module.
#pragma once
#include <nanobind/nanobind.h>

namespace spikemesh {

void bind_combine(nanobind::module_& m);
void bind_products(nanobind::module_& m);
void bind_currents(nanobind::module_& m);
void bind_draw(nanobind::module_& m);
void bind_lif(nanobind::module_& m);
void bind_settle(nanobind::module_& m);
void bind_sparse(nanobind::module_& m);
void bind_spikes(nanobind::module_& m);
void bind_delta(nanobind::module_& m);
void bind_events(nanobind::module_& m);

}  // namespace spikemesh
