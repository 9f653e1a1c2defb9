# The CUDA kernels and their op library, when there is an nvcc: $CUDACXX, then PATH, then the PyPI
# toolkit of `make cuda-toolchain`. AUTO skips them with one line when something is missing, ON
# stops with that line.
#
# The library names libtorch_cuda by a stub of the same SONAME and links the CUDA runtime
# statically, so it is built here without a CUDA torch and loads under any.

set(THRIFTY_MIN_NVCC 12.4)  # Hopper's wgmma with C++20; older ones are not tested by CUTLASS 4.2

if(NOT THRIFTY_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "thrifty: THRIFTY_CUDA: expected AUTO, ON or OFF, got ${THRIFTY_CUDA}.")
endif()
# pip hides what CMake says: the Makefile prints the line from this file.
function(thrifty_say line)
  message(NOTICE "thrifty: ${line}")
  file(WRITE ${CMAKE_BINARY_DIR}/cuda.txt "thrifty: ${line}\n")
endfunction()

macro(thrifty_skip_cuda reason)
  if(THRIFTY_CUDA STREQUAL "ON")
    message(FATAL_ERROR "thrifty: THRIFTY_CUDA=ON, but ${reason}.")
  endif()
  thrifty_say("skipping the CUDA kernels: ${reason}.")
  return()
endmacro()

if(THRIFTY_CUDA STREQUAL "OFF")
  thrifty_skip_cuda("THRIFTY_CUDA=OFF")
endif()

# thrifty_python_folder(out, module, subfolder): inside a PyPI package; empty when that is not
# installed.
function(thrifty_python_folder out module subfolder)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c "
import importlib.util, os
spec = importlib.util.find_spec('${module}')
folder = spec and os.path.join(list(spec.submodule_search_locations)[0], '${subfolder}')
print(folder if folder and os.path.isdir(folder) else '', end='')"
    OUTPUT_VARIABLE folder COMMAND_ERROR_IS_FATAL ANY)
  set(${out} "${folder}" PARENT_SCOPE)
endfunction()

# --- nvcc ---------------------------------------------------------------------------------------
thrifty_python_folder(pypi_toolkit nvidia cu13)
set(nvcc $ENV{CUDACXX})
if(NOT nvcc)
  find_program(nvcc nvcc PATHS ${pypi_toolkit}/bin /usr/local/cuda/bin NO_CACHE)
endif()
if(NOT nvcc)
  thrifty_skip_cuda("no nvcc found (`make cuda-toolchain` installs one into .venv)")
endif()
execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE nvcc_version)
string(REGEX REPLACE ".*release ([0-9.]+).*" "\\1" nvcc_version "${nvcc_version}")
if(nvcc_version VERSION_LESS THRIFTY_MIN_NVCC)
  thrifty_skip_cuda("nvcc ${THRIFTY_MIN_NVCC} or newer is needed, ${nvcc} is ${nvcc_version}")
endif()

# A wheel says which CUDA it was built for, and that must be true.
string(REPLACE "." "" variant "cu${nvcc_version}")
if("$ENV{THRIFTY_LOCAL_VERSION}" MATCHES "^cu" AND NOT "$ENV{THRIFTY_LOCAL_VERSION}" STREQUAL variant)
  message(FATAL_ERROR "thrifty: a wheel $ENV{THRIFTY_LOCAL_VERSION} needs that nvcc; ${nvcc} is "
                      "${nvcc_version}, which makes ${variant}.")
endif()

# The PyPI toolkit keeps its libraries in lib, where nvcc's own profile looks in lib64.
if(pypi_toolkit AND nvcc MATCHES "^${pypi_toolkit}/")
  set(ENV{NVCC_APPEND_FLAGS} -L${pypi_toolkit}/lib)
  link_directories(${pypi_toolkit}/lib)
endif()

set(ENV{CUDACXX} ${nvcc})
set(ENV{CUDAHOSTCXX} ${CMAKE_CXX_COMPILER})
set(CMAKE_CUDA_ARCHITECTURES ${THRIFTY_CUDA_ARCHS})  # now: enable_language would choose 75
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  set(host "${CMAKE_CXX_COMPILER} ${CMAKE_CXX_COMPILER_VERSION}")
  thrifty_skip_cuda("${nvcc} does not work with ${host}")
endif()

# --- CuTe's arch layer --------------------------------------------------------------------------
thrifty_python_folder(pypi_cutlass cutlass_library source/include)
find_path(THRIFTY_CUTLASS_INCLUDE cute/arch/mma_sm90.hpp
  HINTS ${THRIFTY_CUTLASS_DIR}/include ${pypi_cutlass} NO_DEFAULT_PATH)
if(NOT THRIFTY_CUTLASS_INCLUDE)
  thrifty_skip_cuda("the CuTe headers are missing (pip install --no-deps nvidia-cutlass==4.2.0.0)")
endif()

enable_language(CUDA)
thrifty_say("CUDA kernels by nvcc ${nvcc_version} for ${THRIFTY_CUDA_ARCHS}.")

# --- kernels ------------------------------------------------------------------------------------
# NDEBUG whatever the build type: CUTLASS's asserts make nvcc serialise wgmma (warning C7510). -v
# reports what each kernel uses; the launcher keeps that report beside the object for
# .ci/cuda_resources.py and prints only warnings. A launcher of the user's (ccache) runs below it.
set(CMAKE_CUDA_COMPILER_LAUNCHER
  ${Python_EXECUTABLE} ${CMAKE_SOURCE_DIR}/cmake/nvcc_report.py ${CMAKE_CUDA_COMPILER_LAUNCHER})
#
# *_sm90.cu hold what runs on Hopper alone, wgmma and TMA; the launches choose at run time.
set(hopper ${kernels})
list(FILTER hopper INCLUDE REGEX "_sm90\\.cu$")
list(FILTER kernels EXCLUDE REGEX "_sm90\\.cu$")
add_library(thrifty_cuda_sm90 OBJECT ${hopper})
set_target_properties(thrifty_cuda_sm90 PROPERTIES CUDA_ARCHITECTURES 90a-real)
add_library(thrifty_cuda STATIC ${kernels} $<TARGET_OBJECTS:thrifty_cuda_sm90>)
foreach(target thrifty_cuda thrifty_cuda_sm90)
  target_link_libraries(${target} PRIVATE thrifty_base)
  target_include_directories(${target} SYSTEM PRIVATE ${THRIFTY_CUTLASS_INCLUDE}
    $<$<COMPILE_LANGUAGE:CXX>:${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES}>)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:
    -O3 -DNDEBUG --expt-relaxed-constexpr -lineinfo --threads=2
    -Xcompiler=-Wall -Xptxas=-v,-warn-spills>)
  if(THRIFTY_WERROR)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
  endif()
endforeach()

# --- torch edge ---------------------------------------------------------------------------------
add_library(stub_torch_cuda SHARED EXCLUDE_FROM_ALL csrc/torch/libtorch_cuda_stub.cpp)
set_target_properties(stub_torch_cuda PROPERTIES
  OUTPUT_NAME torch_cuda CXX_VISIBILITY_PRESET default)

add_library(thrifty_ops_cuda MODULE ${ops_cuda})
target_include_directories(thrifty_ops_cuda SYSTEM
  PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_compile_definitions(thrifty_ops_cuda PRIVATE USE_CUDA)  # declares torch's CUDA shims
target_link_libraries(thrifty_ops_cuda
  PRIVATE thrifty_core thrifty_cuda torch_stable torch_cpu stub_torch_cuda)
thrifty_install(thrifty_ops_cuda)
