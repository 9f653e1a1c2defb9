// Shared memory of a block: an arena that AddressSanitizer guards and that starts as poison.
//
// The arena starts on its own size, so the address bits that a swizzle looks at are those of the
// offset, as on the device. Dynamic shared memory is at offset 0, static arrays follow where they
// are first met, with a gap between them.
#include <cstdlib>

#include "hostcuda/runtime/race.h"
#include "hostcuda/runtime/state.h"

#if defined(THRIFTY_HOSTCUDA_ASAN)
#include <sanitizer/asan_interface.h>
#else
#define __asan_poison_memory_region(address, bytes) ((void)(address), (void)(bytes))
#define __asan_unpoison_memory_region(address, bytes) ((void)(address), (void)(bytes))
#define __asan_region_is_poisoned(address, bytes) ((void)(address), (void)(bytes), nullptr)
#endif

namespace thrifty::cuda::host {

namespace {

constexpr size_t kGap = 64;
constexpr size_t kStaticLimit = size_t(48) << 10;

void* carve(const void* key, const char* name, size_t bytes, size_t align) {
  Launch& launch = current();
  const size_t offset = (launch.arena_used + align - 1) / align * align;
  char* address = launch.arena + offset;
  __asan_unpoison_memory_region(address, bytes);
  fill_poison(address, bytes);
  race::shared_declared(offset, bytes);
  launch.slots.push_back({key, name, offset, bytes});
  launch.arena_used = offset + bytes + kGap;
  return address;
}

size_t declared_bytes(bool only_static) {
  size_t total = 0;
  for (const SharedSlot& slot : current().slots)
    if (!only_static || slot.key) total += (slot.bytes + 15) / 16 * 16;
  return total;
}

bool in_one_slot(size_t offset, size_t bytes) {
  for (const SharedSlot& slot : current().slots)
    if (offset >= slot.offset && offset + bytes <= slot.offset + slot.bytes) return true;
  return false;
}

}  // namespace

void shared_begin_block(size_t dynamic_bytes) {
  Launch& launch = current();
  if (!launch.arena) {
    launch.arena = static_cast<char*>(std::aligned_alloc(kArenaBytes, kArenaBytes));
    race::shared_arena(launch.arena, kArenaBytes);
  }
  if (dynamic_bytes > options().shared_limit)
    throw Fault(kernel_name(launch.kernel) + ": " + std::to_string(dynamic_bytes) +
                " bytes of dynamic shared memory, the limit is " +
                std::to_string(options().shared_limit));
  __asan_poison_memory_region(launch.arena, kArenaBytes);
  race::shared_reset();
  launch.arena_used = 0;
  launch.slots.clear();
  if (dynamic_bytes > 0) carve(nullptr, "dynamic shared memory", dynamic_bytes, 1024);
}

void* shared_static(const void* key, const char* name, size_t bytes, size_t align) {
  const race::Quiet quiet;
  Launch& launch = current();
  for (const SharedSlot& slot : launch.slots)
    if (slot.key == key) return launch.arena + slot.offset;
  if (declared_bytes(true) + bytes > kStaticLimit)
    fail(Site::current(), std::string("shared ") + name + ": static shared memory over 48 KiB");
  if (declared_bytes(false) + bytes > options().shared_limit ||
      launch.arena_used + align + bytes > kArenaBytes)
    fail(Site::current(), std::string("shared ") + name + ": the block's shared memory is over " +
                              std::to_string(options().shared_limit) + " bytes");
  return carve(key, name, bytes, align);
}

void* shared_dynamic() { return current().arena; }

void fill_poison(void* address, size_t bytes) {
  const uint16_t poison = options().poison;
  unsigned char* to = static_cast<unsigned char*>(address);
  for (size_t i = 0; i < bytes; ++i) to[i] = static_cast<unsigned char>(poison >> 8 * (i & 1));
}

void require_aligned(const char* op, const void* address, size_t align, const Site& site) {
  if (reinterpret_cast<uintptr_t>(address) % align != 0)
    fail(site, std::string(op) + ": the address is not a multiple of " + std::to_string(align));
}

void require_shared(const char* op, const void* address, size_t bytes, size_t align,
                    const Site& site) {
  const race::Quiet quiet;
  const Launch& launch = current();
  const char* at = static_cast<const char*>(address);
  if (at < launch.arena || at >= launch.arena + kArenaBytes)
    fail(site, std::string(op) + ": the address is not in shared memory");
  const size_t offset = size_t(at - launch.arena);
  if (!in_one_slot(offset, bytes))
    fail(site, std::string(op) + ": shared memory used beyond what was launched or declared");
  if (offset % align != 0)
    fail(site,
         std::string(op) + ": the shared address is not a multiple of " + std::to_string(align));
}

void require_access(const char* op, const void* address, size_t bytes, const Site& site) {
  const race::Quiet quiet;
  require_aligned(op, address, bytes, site);
  const Launch& launch = current();
  const char* at = static_cast<const char*>(address);
  if (at >= launch.arena && at < launch.arena + kArenaBytes)
    return require_shared(op, address, bytes, bytes, site);
  if (__asan_region_is_poisoned(const_cast<void*>(address), bytes))
    fail(site, std::string(op) + ": outside of an allocation (AddressSanitizer)");
}

uint32_t shared_address(const char* op, const void* address, const Site& site) {
  require_shared(op, address, 1, 1, site);
  return uint32_t(static_cast<const char*>(address) - current().arena);
}

}  // namespace thrifty::cuda::host
