// Files of the n-gram table: the region as it is, written beside its name, synced and renamed, so
// that a reader finds the old file or the new one and never a part.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <system_error>
#include <vector>

#include "core/error.h"
#include "drafting/ngram_table.h"

namespace thrifty::drafting {
namespace {

// Four lanes of 64 bits, each a multiply and a rotation per word: some 10 GB/s.
uint64_t checksum(const void* data, int64_t bytes) {
  constexpr uint64_t kFactor = 0x9E3779B97F4A7C15u;
  uint64_t lane[4] = {1, 2, 3, 4};
  const char* at = static_cast<const char*>(data);
  for (int64_t i = 0; i + 32 <= bytes; i += 32, at += 32) {
    uint64_t words[4];
    std::memcpy(words, at, sizeof words);
    for (int j = 0; j < 4; ++j) {
      lane[j] = (lane[j] ^ words[j]) * kFactor;
      lane[j] = lane[j] << 29 | lane[j] >> 35;
    }
  }
  uint64_t hash = uint64_t(bytes);
  for (const uint64_t l : lane) hash = (hash ^ l ^ l >> 31) * kFactor, hash ^= hash >> 29;
  return hash;
}

uint64_t header_checksum(NgramHeader header) {
  header.header_checksum = header.data_checksum = 0;
  char page[kHeaderBytes] = {};
  std::memcpy(page, &header, sizeof header);
  return checksum(page, kHeaderBytes);
}

[[noreturn]] void system_error(const char* what, const std::string& path) {
  throw std::system_error(errno, std::generic_category(), concat(what, ": ", path));
}

struct File {
  ~File() {
    if (fd >= 0) close(fd);
  }
  int fd = -1;
};

void write_all(int fd, const char* data, int64_t bytes, const std::string& path) {
  while (bytes > 0) {
    const ssize_t done = write(fd, data, size_t(std::min<int64_t>(bytes, 1 << 30)));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) system_error("save", path);
    data += done, bytes -= done;
  }
}

void sync_folder(const std::string& path) {
  const auto slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const File file{open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (file.fd >= 0) fsync(file.fd);  // some file systems cannot; the rename stands all the same
}

struct Mapping {
  ~Mapping() {
    if (data != nullptr) munmap(data, size_t(bytes));
  }
  void* data = nullptr;
  int64_t bytes = 0;
};

// Sizes that a table of ours has; they decide how much of the file is read. `sealed`: the checksum
// is there, as in files.
void check_header(const NgramHeader& h, int64_t bytes, const std::string& path, bool sealed) {
  const auto expect = [&](bool good, const char* what, const auto& got) {
    THRIFTY_CHECK(good, "load: ", path, ": expected ", what, ", got ", got);
  };
  expect(std::memcmp(h.magic, NgramHeader::kMagic, sizeof h.magic) == 0, "a file of NgramTable",
         "another kind");
  expect(h.endian == NgramHeader::kEndian, "this machine's byte order", "another");
  expect(h.version == NgramHeader::kVersion,
         concat("format version ", NgramHeader::kVersion).c_str(), h.version);
  expect(!sealed || h.header_checksum == header_checksum(h), "a header with its checksum",
         "a corrupted header");
  expect(h.k >= 1 && h.k <= kMaxK && h.stride == NgramStore::stride_of(h.k), "a valid k", h.k);
  expect(1 <= h.n_min && h.n_min <= h.n_max && h.n_max <= kMaxOrder, "valid orders", h.n_max);
  const bool power = h.capacity >= 64 && (h.capacity & (h.capacity - 1)) == 0;
  expect(power && h.capacity < int64_t(1) << 40, "a power of two as capacity", h.capacity);
  expect(h.count_cap >= 1 && h.vocab_size >= 0, "a valid count_cap", h.count_cap);
  const int64_t wanted = NgramStore::bytes_of(h.capacity, h.k);
  expect(bytes == wanted, concat(wanted, " bytes").c_str(), concat(bytes, ": truncated").c_str());
}

// What drafting relies on. The checksum says that the file is what was written, this that it is
// what a table writes.
void check_slots(const NgramStore& store, const std::string& path) {
  const int64_t vocab = store.header().vocab_size;
  for (int64_t slot = 0; slot < store.capacity(); ++slot) {
    NgramEntry entry;
    if (store.key(slot) == 0) continue;
    bool good = store.read(slot, store.key(slot), entry) && entry.count > 0;
    for (int i = 0; good && i < entry.m; ++i) {
      good = entry.ids[i] >= 0 && (vocab == 0 || entry.ids[i] < vocab) && entry.probs[i] > 0 &&
             entry.probs[i] <= (i == 0 ? 1.01f : entry.probs[i - 1]);
      for (int j = 0; good && j < i; ++j) good = entry.ids[i] != entry.ids[j];
    }
    THRIFTY_CHECK(good, "load: ", path, ": expected distinct ids and falling probabilities, got ",
                  "something else in slot ", slot);
  }
}

}  // namespace

void NgramTable::save(const std::string& path) const {
  static std::atomic<uint64_t> serial{0};
  const std::string temporary = concat(path, ".", getpid(), ".", serial++, ".tmp");
  const File file{open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)};
  if (file.fd < 0) system_error("save", temporary);
  try {
    const NgramStore::LockAll lock(*store_);
    const char* data = store_->region() + kHeaderBytes;
    const int64_t bytes = store_->bytes() - kHeaderBytes;
    char page[kHeaderBytes] = {};
    NgramHeader header = store_->header();
    header.data_checksum = checksum(data, bytes);
    header.header_checksum = header_checksum(header);
    std::memcpy(page, &header, sizeof header);
    write_all(file.fd, page, kHeaderBytes, temporary);
    write_all(file.fd, data, bytes, temporary);
    if (fsync(file.fd) != 0) system_error("save", temporary);
    if (rename(temporary.c_str(), path.c_str()) != 0) system_error("save", path);
  } catch (...) {
    unlink(temporary.c_str());
    throw;
  }
  sync_folder(path);
}

NgramTable NgramTable::load(const std::string& path, int64_t vocab_size, const std::string* vocab) {
  const File file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat info{};
  if (file.fd < 0 || fstat(file.fd, &info) != 0) system_error("load", path);
  const int64_t bytes = info.st_size;
  THRIFTY_CHECK(bytes >= kHeaderBytes, "load: ", path, ": expected a file of NgramTable, got ",
                bytes, " bytes");
  Mapping mapping;
  void* data = mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED) system_error("load", path);
  mapping = {data, bytes};
  const auto& h = *static_cast<const NgramHeader*>(data);
  check_header(h, bytes, path, true);
  THRIFTY_CHECK(vocab_size == 0 || h.vocab_size == vocab_size, "load: vocab_size: expected ",
                vocab_size, ", got ", h.vocab_size, " in ", path);
  const std::string theirs(h.vocab, strnlen(h.vocab, sizeof h.vocab));
  THRIFTY_CHECK(vocab == nullptr || *vocab == theirs, "load: vocab: expected ", *vocab, ", got ",
                theirs, " in ", path);
  const char* body = static_cast<const char*>(data) + kHeaderBytes;
  THRIFTY_CHECK(h.data_checksum == checksum(body, bytes - kHeaderBytes), "load: ", path,
                ": expected contents with their checksum, got a corrupted file");
  auto store = std::make_unique<NgramStore>(data, bytes);
  mapping.data = nullptr;
  check_slots(*store, path);
  return NgramTable(std::move(store));
}

void NgramTable::copy_to(void* image) const {
  const NgramStore::LockAll lock(*store_);
  std::memcpy(image, store_->region(), size_t(store_->bytes()));
}

NgramTable NgramTable::from_image(void* image, int64_t bytes, bool borrow) {
  THRIFTY_CHECK(bytes >= kHeaderBytes, "NgramTable: image: expected that of a table, got ", bytes,
                " bytes");
  const auto& h = *static_cast<const NgramHeader*>(image);
  check_header(h, bytes, "an image", false);
  if (borrow) return NgramTable(std::make_unique<NgramStore>(image, bytes, false));
  NgramTable table(NgramOptions{
      .capacity = h.capacity,
      .k = h.k,
      .n_min = h.n_min,
      .n_max = h.n_max,
      .count_cap = h.count_cap,
      .seed = h.seed,
      .vocab_size = h.vocab_size,
      .vocab = std::string(h.vocab, strnlen(h.vocab, sizeof h.vocab)),
  });
  std::memcpy(const_cast<char*>(table.store_->region()), image, size_t(bytes));
  check_slots(*table.store_, "an image");
  return table;
}

}  // namespace thrifty::drafting
