// Memory for the arrays of one result, taken back when the last of them is gone.
//
// A result of a few hundred kilobytes that NumPy allocates anew is new pages, and the kernel's
// zeroing of them takes several times as long as drafting does: 15 against 5 us a tree at a batch
// of 256.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/scratch.h"
#include "python/numpy_edge.h"

namespace thrifty::python {

class BlockPool {
 public:
  struct Block {
    Scratch memory;
    int64_t bytes = 0;
  };

  static BlockPool& instance() {
    static auto* pool = new BlockPool;  // never destroyed: arrays may outlive everything
    return *pool;
  }

  std::unique_ptr<Block> take(int64_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto& block : free_) {
        if (block->bytes >= bytes && block->bytes <= 4 * bytes + 4096) {
          std::swap(block, free_.back());
          std::unique_ptr<Block> taken = std::move(free_.back());
          free_.pop_back();
          return taken;
        }
      }
    }
    return std::make_unique<Block>(Block{Scratch(bytes), bytes});
  }

  void give_back(std::unique_ptr<Block> block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(block));
    if (free_.size() > kKept) free_.erase(free_.begin());
  }

 private:
  static constexpr size_t kKept = 4;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Block>> free_;
};

// Arrays side by side in one block.
class Arena {
 public:
  explicit Arena(int64_t bytes) : block_(BlockPool::instance().take(bytes)) {
    at_ = block_->memory.data();
    owner_ = py::capsule(block_.release(), [](void* block) {
      BlockPool::instance().give_back(
          std::unique_ptr<BlockPool::Block>(static_cast<BlockPool::Block*>(block)));
    });
  }

  // NumPy's own function: pybind11's constructor takes three times as long, and a draft is ten.
  template <class T>
  py::array_t<T> array(std::initializer_list<py::ssize_t> shape) {
    auto& numpy = py::detail::npy_api::get();
    constexpr int kFlags = py::detail::npy_api::NPY_ARRAY_WRITEABLE_ |
                           py::detail::npy_api::NPY_ARRAY_ALIGNED_ |
                           py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_;
    PyObject* made = numpy.PyArray_NewFromDescr_(
        numpy.PyArray_Type_, py::dtype::of<T>().release().ptr(), int(shape.size()),
        reinterpret_cast<const Py_intptr_t*>(shape.begin()), nullptr, at_, kFlags, nullptr);
    if (made == nullptr) throw py::error_already_set();
    auto result = py::reinterpret_steal<py::array_t<T>>(made);
    numpy.PyArray_SetBaseObject_(made, owner_.inc_ref().ptr());
    at_ += bytes_of<T>(result.size());
    return result;
  }

  // What array() takes for so many elements.
  template <class T>
  static int64_t bytes_of(int64_t count) {
    return round_up(std::max<int64_t>(count * int64_t(sizeof(T)), 1), 64);
  }

 private:
  std::unique_ptr<BlockPool::Block> block_;
  std::byte* at_ = nullptr;
  py::capsule owner_;
};

}  // namespace thrifty::python
