# thrifty_family: the one way to name sources. Each csrc/<family>/CMakeLists.txt calls it once, with
# paths relative to its folder; CMakeLists.txt turns the collected lists into one target per layer.
#
#   thrifty_family(
#     CPU       partition, threads, checks: core C++ for every machine
#     ISA       *_isa.cpp, compiled once per instruction set
#     OPS       the torch edge          OPS_CUDA  the same for CUDA tensors
#     CUDA      *.cu, and *.cpp of their host side: the C++ compiler is a few times faster
#     PYTHON    the pybind11 edge)
set(THRIFTY_LAYERS CPU ISA OPS CUDA OPS_CUDA PYTHON)

function(thrifty_family)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "" "${THRIFTY_LAYERS}")
  if(ARG_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "thrifty_family: unknown arguments ${ARG_UNPARSED_ARGUMENTS}")
  endif()
  foreach(layer IN LISTS THRIFTY_LAYERS)
    list(TRANSFORM ARG_${layer} PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)
    set_property(GLOBAL APPEND PROPERTY THRIFTY_SOURCES_${layer} ${ARG_${layer}})
  endforeach()
endfunction()

# thrifty_sources(out LAYER): all files listed for a layer.
function(thrifty_sources out layer)
  get_property(files GLOBAL PROPERTY THRIFTY_SOURCES_${layer})
  set(${out} "${files}" PARENT_SCOPE)
endfunction()

# Into the package, next to its Python files. A symbol that nothing defines is an error now, not at
# import.
function(thrifty_install target)
  target_link_options(${target} PRIVATE -Wl,--exclude-libs,ALL)
  install(TARGETS ${target} LIBRARY DESTINATION thrifty)
endfunction()
