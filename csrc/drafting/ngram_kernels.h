// The inner loops of drafting, compiled for each instruction set: looking up keys and drawing the
// children of one node.
#pragma once

#include "core/dispatch.h"
#include "drafting/ngram_slot.h"

namespace thrifty::drafting {

struct NgramKernels {
  // What the loops see of a table; without keys it is none.
  struct Table {
    const uint64_t* keys = nullptr;
    const char *slots = nullptr, *end = nullptr;  // of the region
    uint64_t mask = 0;                            // of a key: its bucket's first slot
    int64_t stride = 0;
  };
  // Where a table knows a context; slot: null where none does.
  struct Place {
    const char *slot = nullptr, *end = nullptr;
    const uint64_t* key_at = nullptr;
    uint64_t key = 0;
  };
  struct Node {
    Place place;
    int k = 0, wanted = 0;  // children
    bool sample = true;
    float inv_temp = 1;
    const uint32_t* words = nullptr;  // [wanted] of randomness
    int32_t* q_ids = nullptr;         // [k]: -1
    float* q = nullptr;               // [k]: 0
    int64_t room = 0;                 // so many elements of both may be written, -1 and 0 behind k
    int32_t tokens[kMaxK];            // out: the children
  };

  // places[count]: of each context the longest of its keys that a table holds, of equally long ones
  // the first table's. keys[count, 2 tables, orders], of which the first `known` are there.
  void (*find)(const Table* tables, const uint64_t* keys, int64_t count, int orders, int known,
               Place* places);

  // Draws a node's children, writes its q; how many there are. 0 where the slot holds another key
  // by now.
  int (*draw)(Node& node);
};

}  // namespace thrifty::drafting

THRIFTY_ISA_TABLE(thrifty::drafting::NgramKernels, ngram_kernels)
