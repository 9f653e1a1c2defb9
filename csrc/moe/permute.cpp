#include "moe/permute.h"

#include <algorithm>

#include "core/bucket_sort.h"
#include "core/error.h"
#include "moe/elements.h"

namespace thrifty::moe {
namespace {

const std::string kOp = "moe_permute";

bool is_integer(Dtype dtype) { return dtype == Dtype::kInt32 || dtype == Dtype::kInt64; }

int64_t integer(const Array& a, int64_t i) {
  return a.dtype == Dtype::kInt64 ? static_cast<const int64_t*>(a.data)[i]
                                  : static_cast<const int32_t*>(a.data)[i];
}

// Ids after the map, as int32; -1: no expert.
std::vector<int32_t> mapped(const Permute& permute) {
  std::vector<int32_t> ids(size_t(permute.slots()));
  const int64_t before = permute.map ? permute.map.shape[0] : permute.experts;
  for (size_t i = 0; i < ids.size(); ++i) {
    int64_t id = integer(permute.ids, int64_t(i));
    id = id >= 0 && id < before ? (permute.map ? integer(permute.map, id) : id) : -1;
    ids[i] = id >= 0 && id < permute.experts ? int32_t(id) : -1;
  }
  return ids;
}

// Takes the expert from slots beyond the capacity.
void drop(const Permute& permute, const int32_t* slot, const int32_t* offsets,
          std::vector<int32_t>& ids) {
  std::vector<double> priority;
  if (permute.priority) {
    const Dtype wide = sum_dtype(permute.priority.dtype);
    std::vector<std::byte> sums(ids.size() * size_t(dtype_size(wide)));
    to_wide(permute.slots(), permute.priority, 0, sums.data());
    for (size_t i = 0; i < ids.size(); ++i) {
      priority.push_back(wide == Dtype::kFloat64
                             ? reinterpret_cast<const double*>(sums.data())[i]
                             : double(reinterpret_cast<const float*>(sums.data())[i]));
    }
  }
  std::vector<int32_t> slots;
  for (int64_t e = 0; e < permute.experts; ++e) {
    if (offsets[e + 1] - offsets[e] <= permute.capacity) continue;
    slots.assign(slot + offsets[e], slot + offsets[e + 1]);
    if (!priority.empty()) {  // a NaN comes last; slots are in order, and the sort is stable
      std::stable_sort(slots.begin(), slots.end(), [&](int32_t a, int32_t b) {
        const double pa = priority[size_t(a)], pb = priority[size_t(b)];
        return pa > pb || (pa == pa && pb != pb);
      });
    }
    for (size_t i = size_t(permute.capacity); i < slots.size(); ++i) ids[size_t(slots[i])] = -1;
  }
}

}  // namespace

Permute check_moe_permute(const Array& ids, int64_t num_experts, const Array& expert_map,
                          int64_t capacity, const Array& priority) {
  constexpr int64_t kMax = (int64_t(1) << 31) - 1;
  THRIFTY_CHECK(is_integer(ids.dtype), kOp, ": ids: expected int32 or int64, got ",
                dtype_name(ids.dtype));
  THRIFTY_CHECK(ids.ndim == 2 && ids.numel() <= kMax, kOp,
                ": ids: expected shape (T, K) with fewer than 2^31 slots, got ", shape_text(ids));
  THRIFTY_CHECK(num_experts >= 1 && num_experts < kMax, kOp,
                ": num_experts: expected a positive number below 2^31 - 1, got ", num_experts);
  if (expert_map) {
    THRIFTY_CHECK(is_integer(expert_map.dtype), kOp, ": expert_map: expected int32 or int64, got ",
                  dtype_name(expert_map.dtype));
    THRIFTY_CHECK(expert_map.ndim == 1, kOp,
                  ": expert_map: expected shape (experts before the map,), got ",
                  shape_text(expert_map));
  }
  THRIFTY_CHECK(capacity >= 0, kOp, ": capacity: expected None or a positive number, got ",
                capacity);
  if (priority) {
    THRIFTY_CHECK(is_floating(priority.dtype), kOp, ": priority: expected a floating dtype, got ",
                  dtype_name(priority.dtype));
    THRIFTY_CHECK(priority.ndim == 2 && priority.shape == ids.shape, kOp,
                  ": priority: expected the shape of ids ", shape_text(ids), ", got ",
                  shape_text(priority));
  }
  return {ids, expert_map, priority, num_experts, capacity};
}

void moe_permute(const Permute& permute, int32_t* slot, int32_t* offsets, int32_t* inverse,
                 ParallelFor parallel) {
  std::vector<int32_t> ids = mapped(permute);
  Array array{.data = ids.data(), .dtype = Dtype::kInt32, .ndim = 1};
  array.shape[0] = permute.slots(), array.strides[0] = 1;
  const auto sort = [&] {
    bucket_sort(array, 1, permute.slots(), permute.experts, slot, offsets, inverse, parallel);
  };
  sort();
  if (permute.capacity == 0) return;
  drop(permute, slot, offsets, ids);
  sort();
}

}  // namespace thrifty::moe
