# The C++ compiler, the flags of every target, and the Python that we build for.

include(CheckLanguage)
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  message(FATAL_ERROR
    "thrifty: no C++ compiler found; install one (Debian: apt-get install g++) or set CXX.")
endif()
enable_language(CXX)
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  message(FATAL_ERROR "thrifty: builds on Linux only, this is ${CMAKE_SYSTEM_NAME}.")
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 11)
  message(FATAL_ERROR "thrifty: needs g++ 11 or newer, found ${CMAKE_CXX_COMPILER_VERSION}.")
endif()

find_package(Python 3.10 QUIET COMPONENTS Interpreter Development.Module)
if(NOT Python_FOUND)
  message(FATAL_ERROR
    "thrifty: no Python 3.10 or newer with its headers found (Debian: apt-get install python3-dev).")
endif()

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# torch::stable lives in hidden namespaces, and two op libraries must not see each other's symbols.
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)

# Error messages and debug information name files relative to the source tree, not the builder's
# folders.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-ffile-prefix-map=${CMAKE_SOURCE_DIR}/=>)

# AddressSanitizer, and of UBSan what kernels can get wrong: all of it costs half as much compile time
# again (logits_isa.cpp: 4 s with the first alone, 7 s like this, 12 s with all).
set(THRIFTY_SANITIZERS -fno-omit-frame-pointer -fno-sanitize-recover=all
    -fsanitize=address,alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero)
if(THRIFTY_SANITIZE)
  add_compile_options(${THRIFTY_SANITIZERS})
  add_link_options(${THRIFTY_SANITIZERS})
endif()

# What all of our own C++ shares.
add_library(thrifty_base INTERFACE)
target_include_directories(thrifty_base INTERFACE ${CMAKE_SOURCE_DIR}/csrc)
target_compile_options(thrifty_base INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra>)
if(THRIFTY_WERROR)
  target_compile_options(thrifty_base INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(THRIFTY_X86 ON)
  target_compile_definitions(thrifty_base INTERFACE THRIFTY_X86)
endif()
