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

if(THRIFTY_SANITIZE)
  add_compile_options(-fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_compile_options(-fsanitize=address,undefined)
  add_link_options(-fsanitize=address,undefined)
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
