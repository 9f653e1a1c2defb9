// ExpertCache: state that outlives calls, over NumPy arrays of ids.
#include "moe/expert_cache.h"

#include <memory>

#include "python/numpy_edge.h"

namespace thrifty::python {
namespace {

using moe::ExpertCache;
using Int32 = py::array_t<int32_t, py::array::c_style>;
using Int64 = py::array_t<int64_t, py::array::c_style>;

constexpr const char* kOp = "ExpertCache";

std::unique_ptr<ExpertCache> make_cache(int64_t experts, int64_t slots, const std::string& policy) {
  constexpr int64_t kMax = (int64_t(1) << 31) - 1;
  THRIFTY_CHECK(experts >= 1 && experts <= kMax, kOp,
                ": n_experts: expected a positive number below 2^31, got ", experts);
  THRIFTY_CHECK(slots >= 1 && slots <= kMax, kOp,
                ": n_slots: expected a positive number below 2^31, got ", slots);
  const bool belady = policy == "belady", lru = policy == "lru", lfu = policy == "lfu";
  THRIFTY_CHECK(belady || lru || lfu, kOp, ": policy: expected belady, lru or lfu, got ", policy);
  return std::make_unique<ExpertCache>(experts, slots,
                                       belady ? ExpertCache::Policy::kBelady
                                       : lru  ? ExpertCache::Policy::kLru
                                              : ExpertCache::Policy::kLfu);
}

void check_ids(const char* op, const Int32& ids, int64_t experts) {
  THRIFTY_CHECK(ids.ndim() == 1, op, ": ids: expected 1 dimension, got ", ids.ndim());
  const int32_t* id = ids.data();
  for (int64_t i = 0; i < ids.size(); ++i) {
    THRIFTY_CHECK(id[i] >= 0 && id[i] < experts, op, ": ids: expected experts from 0 to ",
                  experts - 1, ", got ", id[i], " at ", i);
  }
}

// Columns at, expert, slot, evicted.
Int64 plan(ExpertCache& cache, const Int32& ids, int64_t now, int64_t stop) {
  constexpr const char* kPlan = "ExpertCache.plan";
  check_ids(kPlan, ids, cache.experts());
  const int64_t count = ids.size();
  THRIFTY_CHECK(now >= 0 && now <= count, kPlan, ": now: expected 0 to ", count, ", got ", now);
  THRIFTY_CHECK(stop >= now && stop <= count, kPlan, ": stop: expected ", now, " to ", count,
                ", got ", stop);
  const auto loads = cache.plan(ids.data(), count, now, stop);
  Int64 rows(std::vector<py::ssize_t>{py::ssize_t(loads.size()), 4});
  int64_t* row = rows.mutable_data();
  for (const ExpertCache::Load& load : loads) {
    *row++ = load.at, *row++ = load.expert, *row++ = load.slot, *row++ = load.evicted;
  }
  return rows;
}

Int32 numbers(const std::vector<int32_t>& values) {
  return Int32(py::ssize_t(values.size()), values.data());
}

Int64 batch(const ExpertCache& cache, const Int32& ids, int64_t most,
            const std::optional<Int32>& waited, int64_t max_age) {
  constexpr const char* kBatch = "ExpertCache.batch";
  check_ids(kBatch, ids, cache.experts());
  THRIFTY_CHECK(most >= 1, kBatch, ": max_batch: expected a positive number, got ", most);
  THRIFTY_CHECK(!waited || (waited->ndim() == 1 && waited->size() == ids.size()), kBatch,
                ": waited: expected a number for each of ", ids.size(), " requests, got ",
                waited ? waited->size() : 0);
  const auto chosen = moe::expert_batch(ids.data(), waited ? waited->data() : nullptr, ids.size(),
                                        cache.experts(), most, max_age);
  return Int64(py::ssize_t(chosen.size()), chosen.data());
}

}  // namespace

void bind_expert_cache(py::module_& m) {
  py::class_<ExpertCache>(m, "ExpertCache")
      .def(py::init(&make_cache))
      .def("plan", &plan)
      .def("batch", &batch)
      .def("expert_of_slot", [](const ExpertCache& c) { return numbers(c.expert_of_slot()); })
      .def("slot_of_expert", [](const ExpertCache& c) { return numbers(c.slot_of_expert()); })
      .def_readonly("hits", &ExpertCache::hits)
      .def_readonly("misses", &ExpertCache::misses);
}

}  // namespace thrifty::python
