// The sampling family on NumPy arrays: the same core functions as torch.ops.thrifty.
#include "python/numpy_edge.h"
#include "sampling/bitmask.h"
#include "sampling/masked_sample.h"

namespace thrifty::python {
namespace {

using sampling::BatchArgs;
using sampling::FilterArgs;

// Rows may lie apart; a row itself has to be contiguous to be used in place.
Array rows_in_place(const py::array& array) {
  THRIFTY_CHECK(array.writeable(), "apply_token_bitmask_: logits: expected a writable array, got ",
                "a read-only one");
  const bool native = array.dtype().attr("isnative").cast<bool>();
  const bool contiguous =
      array.ndim() == 2 && (array.shape(1) <= 1 || array.strides(1) == array.itemsize());
  const bool whole = array.ndim() == 2 && array.strides(0) % array.itemsize() == 0;
  THRIFTY_CHECK(native && contiguous && whole,
                "apply_token_bitmask_: logits: expected shape (B, V), contiguous rows and native "
                "byte order, got another array of ",
                array.ndim(), " dimensions");
  Array a;
  a.data = const_cast<void*>(array.data());
  a.dtype = dtype_of(array);
  a.ndim = 2;
  for (int d = 0; d < 2; ++d) {
    a.shape[size_t(d)] = array.shape(d);
    a.strides[size_t(d)] = array.strides(d) / array.itemsize();
  }
  return a;
}

void apply_token_bitmask_(const py::array& logits, const py::array& bitmask_,
                          const OptionalArray& indices_, const OptionalArray& row_map_,
                          std::optional<int64_t> vocab_size) {
  const py::array bitmask = dense(bitmask_);
  const OptionalArray indices = dense(indices_), row_map = dense(row_map_);
  const auto op = sampling::check_apply_token_bitmask({.logits = rows_in_place(logits),
                                                       .bitmask = view(bitmask),
                                                       .indices = view(indices),
                                                       .row_map = view(row_map),
                                                       .vocab_size = vocab_size.value_or(-1)});
  const py::gil_scoped_release nogil;
  sampling::apply_token_bitmask(op, pool);
}

// Holds what the arguments of both ops point into.
struct BatchArrays {
  py::array logits;
  OptionalArray bitmask, mask_rows, inv_temperature, top_k, top_p, min_p, top_n_sigma, top_h;
  std::string top_h_variant;

  BatchArrays(const py::array& logits, const OptionalArray& bitmask, const OptionalArray& mask_rows,
              const OptionalArray& inv_temperature, const OptionalArray& top_k,
              const OptionalArray& top_p, const OptionalArray& min_p,
              const OptionalArray& top_n_sigma, const OptionalArray& top_h,
              const std::string& top_h_variant)
      : logits(dense(logits)),
        bitmask(dense(bitmask)),
        mask_rows(dense(mask_rows)),
        inv_temperature(dense(inv_temperature)),
        top_k(dense(top_k)),
        top_p(dense(top_p)),
        min_p(dense(min_p)),
        top_n_sigma(dense(top_n_sigma)),
        top_h(dense(top_h)),
        top_h_variant(top_h_variant) {}

  BatchArgs batch(const std::string& op) const {
    return {.op = op,
            .logits = view(logits),
            .bitmask = view(bitmask),
            .mask_rows = view(mask_rows),
            .inv_temperature = view(inv_temperature)};
  }
  FilterArgs filters() const {
    return {.top_k = view(top_k),
            .top_p = view(top_p),
            .min_p = view(min_p),
            .top_n_sigma = view(top_n_sigma),
            .top_h = view(top_h),
            .top_h_variant = top_h_variant};
  }
};

py::tuple masked_sample(const py::array& logits, const OptionalArray& bitmask,
                        const OptionalArray& mask_rows, const OptionalArray& inv_temperature,
                        const OptionalArray& top_k, const OptionalArray& top_p,
                        const OptionalArray& min_p, const OptionalArray& top_n_sigma,
                        const OptionalArray& top_h, const std::string& top_h_variant,
                        const OptionalArray& threshold_, const py::array& seeds_,
                        const py::array& offsets_, int64_t fallback_token) {
  const BatchArrays in(logits, bitmask, mask_rows, inv_temperature, top_k, top_p, min_p,
                       top_n_sigma, top_h, top_h_variant);
  const OptionalArray threshold = dense(threshold_);
  const py::array seeds = dense(seeds_), offsets = dense(offsets_);
  const auto op = sampling::check_masked_sample({.batch = in.batch("masked_sample"),
                                                 .filters = in.filters(),
                                                 .threshold = view(threshold),
                                                 .seeds = view(seeds),
                                                 .offsets = view(offsets),
                                                 .fallback_token = fallback_token});
  const py::ssize_t rows = op.batch.rows;
  py::array_t<int64_t> token(rows);
  py::array_t<float> logp(rows), log_z(rows);
  py::array_t<int32_t> status(rows);
  const sampling::MaskedSampleOut out{token.mutable_data(), logp.mutable_data(),
                                      log_z.mutable_data(), status.mutable_data()};
  {
    const py::gil_scoped_release nogil;
    sampling::masked_sample(op, out, pool);
  }
  return py::make_tuple(token, logp, log_z, status);
}

py::tuple filter_threshold(const py::array& logits, const OptionalArray& bitmask,
                           const OptionalArray& mask_rows, const OptionalArray& inv_temperature,
                           const OptionalArray& top_k, const OptionalArray& top_p,
                           const OptionalArray& min_p, const OptionalArray& top_n_sigma,
                           const OptionalArray& top_h, const std::string& top_h_variant) {
  const BatchArrays in(logits, bitmask, mask_rows, inv_temperature, top_k, top_p, min_p,
                       top_n_sigma, top_h, top_h_variant);
  const auto op = sampling::check_filter_threshold(in.batch("filter_threshold"), in.filters());
  py::array_t<float> threshold(py::ssize_t(op.batch.rows)), log_mass(py::ssize_t(op.batch.rows));
  const sampling::FilterThresholdOut out{threshold.mutable_data(), log_mass.mutable_data()};
  {
    const py::gil_scoped_release nogil;
    sampling::filter_threshold(op, out, pool);
  }
  return py::make_tuple(threshold, log_mass);
}

}  // namespace

void bind_sampling(py::module_& m) {
  m.def("apply_token_bitmask_", &apply_token_bitmask_);
  m.def("masked_sample", &masked_sample);
  m.def("filter_threshold", &filter_threshold);
}

}  // namespace thrifty::python
