// Bulk tensor copies: the destination is poison from issue until somebody waits on the mbarrier.
#include "core/cuda/tma.cuh"

#include <cstring>

#include "hostcuda/runtime/bulk.h"

namespace thrifty::cuda::host {

namespace {

// A row of the box in global memory; bytes outside the tensor are not in it.
struct SourceRow {
  const unsigned char* from = nullptr;
  uint32_t first = 0, last = 0;  // bytes of the row that exist
};

SourceRow source_row(const BulkCopy& copy, uint32_t row, uint32_t layer) {
  const TensorMap& map = copy.map;
  const int64_t y = int64_t(copy.at[1]) + row, z = int64_t(copy.at[2]) + layer;
  if (y < 0 || y >= int64_t(map.sizes[1]) || z < 0 || z >= int64_t(map.sizes[2])) return {};
  const int64_t x = copy.at[0], size = int64_t(map.sizes[0]), wide = map.box[0];
  const int64_t first = x < 0 ? (-x < wide ? -x : wide) : 0;
  const int64_t last = size - x < wide ? (size - x > 0 ? size - x : 0) : wide;
  if (first >= last) return {};
  return {map.base + z * int64_t(map.stride_bytes[2]) + y * int64_t(map.stride_bytes[1]) +
              (x + first) * map.element_bytes,
          uint32_t(first * map.element_bytes), uint32_t(last * map.element_bytes)};
}

template <class Body>
void for_each_row(const BulkCopy& copy, Body&& body) {
  for (uint32_t layer = 0; layer < copy.map.box[2]; ++layer)
    for (uint32_t row = 0; row < copy.map.box[1]; ++row)
      body(layer * copy.map.box[1] + row, source_row(copy, row, layer));
}

// Row by row into a flat tile, then chunk by chunk to where the swizzle puts it.
void land(const BulkCopy& copy) {
  const uint32_t row_bytes = copy.map.row_bytes();
  const uint32_t base = uint32_t(copy.tile - reinterpret_cast<unsigned char*>(current().arena));
  std::vector<unsigned char> line(row_bytes);
  for_each_row(copy, [&](uint32_t row, const SourceRow& source) {
    std::memset(line.data(), 0, row_bytes);
    if (source.from)
      std::memcpy(line.data() + source.first, source.from, source.last - source.first);
    for (uint32_t chunk = 0; chunk < row_bytes; chunk += 16)
      std::memcpy(current().arena + swizzled(copy.map.swizzle, base + row * row_bytes + chunk),
                  line.data() + chunk, 16);
  });
}

}  // namespace

void tma_load(void* shared_tile, const TensorMap& map, Mbarrier* barrier, const int (&at)[3],
              const Site& site) {
  const race::Quiet quiet;
  Thread& thread = self("tma_load");
  const void* code = __builtin_return_address(0);
  if (!map.base) fail(site, "tma_load: the tensor map has not been made");
  const size_t align = map.swizzle == Swizzle::none ? 128 : 8 * size_t(swizzle_span(map.swizzle));
  require_shared("tma_load", shared_tile, map.box_bytes(), align < 128 ? 128 : align, site);
  MbarrierState& state = mbarrier_at("tma_load", barrier, site, code);
  BulkCopy copy{barrier,
                map,
                static_cast<unsigned char*>(shared_tile),
                {at[0], at[1], at[2]},
                race::unit_of_mbarrier(state.number)};
  race::hand_over(thread.index, copy.unit);
  race::async_begin(copy.tile, map.box_bytes(), copy.unit, code);
  for_each_row(copy, [&](uint32_t, const SourceRow& source) {
    if (source.from) race::read(source.from, source.last - source.first, thread.index, code);
  });
  fill_poison(copy.tile, map.box_bytes());
  bulk().in_flight.push_back(copy);
  mbarrier_wake(state);  // a waiting thread brings the bytes home
  preempt();
}

bool bulk_land_one(Mbarrier* barrier) {
  auto& in_flight = bulk().in_flight;
  for (size_t i = 0; i < in_flight.size(); ++i) {
    if (in_flight[i].barrier != barrier) continue;
    const BulkCopy copy = in_flight[i];
    in_flight.erase(in_flight.begin() + long(i));
    MbarrierState& state = bulk().mbarriers.at(barrier);
    race::async_end(copy.tile, copy.map.box_bytes(), copy.unit);
    land(copy);
    race::tell(copy.unit, state.arriving);
    state.bytes -= copy.map.box_bytes();
    return true;
  }
  return false;
}

}  // namespace thrifty::cuda::host
