// thrifty._native: the NumPy face of the library. No torch here: a module that needs NumPy alone.
#include "core/dispatch.h"
#include "core/parallel.h"
#include "python/numpy_edge.h"

namespace thrifty::python {
void bind_attention(py::module_& m);
void bind_drafting(py::module_& m);
void bind_ensemble(py::module_& m);
void bind_expert_cache(py::module_& m);
void bind_moe(py::module_& m);
void bind_sampling(py::module_& m);
void bind_verify(py::module_& m);
void bind_awrs(py::module_& m);
}  // namespace thrifty::python

PYBIND11_MODULE(_native, m, pybind11::mod_gil_not_used()) {
  m.doc() = "CPU kernels of thrifty on NumPy arrays.";
  m.def("cpu_isa", [] { return thrifty::isa_name(thrifty::active_isa()); });
  m.def("set_num_threads", [](int threads) {
    THRIFTY_CHECK(threads > 0, "set_num_threads: threads: expected a positive number, got ",
                  threads);
    thrifty::set_num_threads(threads);
  });
  m.def("get_num_threads", &thrifty::get_num_threads);
  thrifty::python::bind_attention(m);
  thrifty::python::bind_drafting(m);
  thrifty::python::bind_ensemble(m);
  thrifty::python::bind_moe(m);
  thrifty::python::bind_expert_cache(m);
  thrifty::python::bind_sampling(m);
  thrifty::python::bind_verify(m);
  thrifty::python::bind_awrs(m);
}
