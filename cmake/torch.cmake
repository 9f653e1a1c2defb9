# torch: its headers and the name of its library, nothing else. TorchConfig.cmake would ask for the
# full CUDA toolkit and set architecture flags of its own; and finding torch without importing it
# saves two seconds.

set(THRIFTY_MIN_TORCH 2.10)

execute_process(
  COMMAND ${Python_EXECUTABLE} -c "
import importlib.metadata, importlib.util, os
spec = importlib.util.find_spec('torch')
if spec and spec.origin:
    print(importlib.metadata.version('torch'), os.path.dirname(spec.origin), sep=';', end='')"
  OUTPUT_VARIABLE torch COMMAND_ERROR_IS_FATAL ANY)
if(NOT torch)
  message(FATAL_ERROR
    "thrifty: torch not found beside ${Python_EXECUTABLE}; install torch>=${THRIFTY_MIN_TORCH}, "
    "then: pip install --no-build-isolation .")
endif()
list(GET torch 0 torch_version)
list(GET torch 1 torch_root)
if(torch_version VERSION_LESS THRIFTY_MIN_TORCH)
  message(FATAL_ERROR "thrifty: needs torch ${THRIFTY_MIN_TORCH} or newer, found ${torch_version}.")
endif()
message(STATUS "thrifty: torch ${torch_version} in ${torch_root}")

# The stable ABI of 2.10: what is built here runs under every later torch, whichever this one is.
add_library(torch_stable INTERFACE)
target_include_directories(torch_stable SYSTEM INTERFACE ${torch_root}/include)
target_compile_definitions(torch_stable INTERFACE TORCH_TARGET_VERSION=0x020a000000000000)
target_compile_options(torch_stable INTERFACE -ffile-prefix-map=${torch_root}/include/=)

# Python loads torch with RTLD_LOCAL, so the op library must name libtorch_cpu itself; -z defs turns
# a symbol that torch does not export into a link error.
add_library(torch_cpu SHARED IMPORTED)
set_target_properties(torch_cpu PROPERTIES
  IMPORTED_LOCATION ${torch_root}/lib/libtorch_cpu.so
  INTERFACE_LINK_OPTIONS "-Wl,--no-as-needed;-Wl,-z,defs")
