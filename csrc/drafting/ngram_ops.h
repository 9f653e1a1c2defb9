// The torch ops of an n-gram table whose memory is a tensor, once for the CPU and for CUDA: checks,
// allocation, call. The table is the region of ngram_store.h; on a device the host cannot read its
// header, so the options come with each call.
//
// A Device says how a call is run:
//   limits(table), check(op, name, tensor, region), update(...), draft(...)
#pragma once

#include <string>
#include <tuple>

#include "drafting/ngram_check.h"
#include "torch/edge.h"

namespace thrifty::drafting::ops {

using edge::OptionalTensor;
using edge::ScalarType;
using edge::Tensor;

// The region and what its header says.
struct TableTensor {
  Tensor region;
  int64_t capacity, k, n_min, n_max, count_cap, seed;

  char* data() const { return static_cast<char*>(edge::data(region)); }
  void check(const std::string& op) const {
    THRIFTY_CHECK(region.scalar_type() == ScalarType::Byte && region.dim() == 1 &&
                      region.is_contiguous() && k >= 1 && k <= kMaxK && capacity >= kBucket &&
                      region.numel() == NgramStore::bytes_of(capacity, k) &&
                      reinterpret_cast<uintptr_t>(region.data_ptr()) % alignof(uint64_t) == 0,
                  op, ": region: expected the uint8 image of a table with these options, got ",
                  shape_text(edge::array(region)));
    THRIFTY_CHECK(n_min >= 1 && n_min <= n_max && n_max <= kMaxOrder && count_cap >= 1, op,
                  ": n_max: expected the table's own options, got ", n_max);
  }
};

template <class Device>
struct NgramOps {
  using Ten =
      std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

  static void update(const Tensor& region, int64_t capacity, int64_t k, int64_t n_min,
                     int64_t n_max, int64_t count_cap, int64_t seed, const Tensor& tails_,
                     const OptionalTensor& lens_, const Tensor& ids_, const Tensor& probs_) {
    const TableTensor table{region, capacity, k, n_min, n_max, count_cap, seed};
    table.check("update");
    const Tensor tails = edge::dense(tails_), ids = edge::dense(ids_), probs = edge::dense(probs_);
    const OptionalTensor lens = edge::dense(lens_);
    Device::check("update", "tails", tails, region);
    if (lens) Device::check("update", "lens", *lens, region);
    Device::check("update", "ids", ids, region);
    Device::check("update", "probs", probs, region);
    Device::update(table, edge::array(tails), edge::array(lens), edge::array(ids),
                   edge::array(probs));
  }

  static Ten draft(const Tensor& region, int64_t capacity, int64_t k, int64_t n_min, int64_t n_max,
                   int64_t count_cap, int64_t table_seed, const Tensor& tails_,
                   const OptionalTensor& lens_, const Tensor& child_begin_,
                   const Tensor& child_count_, bool sample, double inv_temp, const Tensor& seed_,
                   const Tensor& offset_) {
    const TableTensor table{region, capacity, k, n_min, n_max, count_cap, table_seed};
    table.check("draft");
    THRIFTY_CHECK(inv_temp > 0 && inv_temp < 1e6, "draft: inv_temp: expected a positive number, ",
                  "got ", inv_temp);
    const Tensor tails = edge::dense(tails_), child_begin = edge::dense(child_begin_),
                 child_count = edge::dense(child_count_), seed = edge::dense(seed_),
                 offset = edge::dense(offset_);
    const OptionalTensor lens = edge::dense(lens_);
    Device::check("draft", "tails", tails, region);
    if (lens) Device::check("draft", "lens", *lens, region);
    Device::check("draft", "child_begin", child_begin, region);
    Device::check("draft", "child_count", child_count, region);
    Device::check("draft", "seed", seed, region);
    Device::check("draft", "offset", offset, region);
    const Array shape = edge::array(child_count);
    const int64_t nodes = child_count.numel(), words = (nodes + 63) / 64;
    THRIFTY_CHECK(
        shape.dtype == Dtype::kInt32 && shape.ndim == 1 && nodes >= 1 && nodes <= kMaxNodes &&
            child_begin.scalar_type() == ScalarType::Int && child_begin.numel() == nodes,
        "draft: child_count: expected int32 (T,) as child_begin, got ", shape_text(shape));
    const int64_t batch = tails.dim() > 0 ? tails.size(0) : 0;
    for (const auto& [name, numbers] : {std::pair{"seed", &seed}, std::pair{"offset", &offset}}) {
      THRIFTY_CHECK(numbers->scalar_type() == ScalarType::Long && numbers->dim() == 1 &&
                        numbers->numel() == batch,
                    "draft: ", name, ": expected int64 (", batch, ",), got ",
                    shape_text(edge::array(*numbers)));
    }
    const auto made = [&](const std::vector<int64_t>& sizes, ScalarType type) {
      return torch::stable::new_empty(region, sizes, type);
    };
    Tensor links[6] = {
        made({batch, nodes}, ScalarType::Int), made({batch, nodes}, ScalarType::Int),
        made({batch, nodes}, ScalarType::Int), made({batch, nodes}, ScalarType::Int),
        made({batch, nodes}, ScalarType::Int), made({batch, nodes}, ScalarType::Int)};
    Tensor ancestors = made({batch, nodes, words}, ScalarType::Long),
           sizes = made({batch}, ScalarType::Int), q_ids = made({batch, nodes, k}, ScalarType::Int),
           q = made({batch, nodes, k}, ScalarType::Float);
    const auto ints = [](const Tensor& tensor) {
      return static_cast<int32_t*>(edge::data(tensor));
    };
    const auto longs = [](const Tensor& tensor) {
      return static_cast<int64_t*>(edge::data(tensor));
    };
    const DraftArrays out{.tokens = ints(links[0]),
                          .parents = ints(links[1]),
                          .first_child = ints(links[2]),
                          .next_sibling = ints(links[3]),
                          .depths = ints(links[4]),
                          .slots = ints(links[5]),
                          .ancestors = longs(ancestors),
                          .sizes = ints(sizes),
                          .q_ids = ints(q_ids),
                          .q = static_cast<float*>(edge::data(q))};
    const DraftSettings settings{.sample = sample,
                                 .inv_temp = float(inv_temp),
                                 .seeds = longs(seed),
                                 .offsets = longs(offset)};
    Device::draft(table, edge::array(tails), edge::array(lens), ints(child_begin),
                  ints(child_count), nodes, settings, out);
    return {links[0], links[1], links[2], links[3], links[4], links[5], ancestors, sizes, q_ids, q};
  }
};

}  // namespace thrifty::drafting::ops

// The kernels for one dispatch key, inside STABLE_TORCH_LIBRARY_IMPL(thrifty, key, m).
#define THRIFTY_IMPL_NGRAM_OPS(m, Device)                      \
  using NgramOps = ::thrifty::drafting::ops::NgramOps<Device>; \
  m.impl("ngram_update_", TORCH_BOX(&NgramOps::update));       \
  m.impl("ngram_draft", TORCH_BOX(&NgramOps::draft))
