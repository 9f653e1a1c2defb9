// Link-time stand-in for libtorch_cuda.so: its SONAME and the three C shims that our CUDA ops call,
// with no bodies.
//
// It lets a machine that has nvcc and a CPU-only torch build the CUDA op library. It is never
// installed; at run time the loader finds the real library, which Python has loaded already.
#include <cstdint>

extern "C" {
int32_t aoti_torch_get_current_cuda_stream(int32_t, void**) { return 1; }
int32_t torch_c10_cuda_check_msg(int32_t, const char*, const char*, uint32_t, bool, char**) {
  return 1;
}
void torch_c10_cuda_free_error_msg(char*) {}
}
