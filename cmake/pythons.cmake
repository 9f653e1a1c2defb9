# The Python edge for further Pythons, whose headers are all that is needed: cmake/pythons.py says
# which (THRIFTY_PYTHONS). The op libraries are built once and serve all of them.
function(thrifty_other_pythons sources)
  execute_process(COMMAND ${Python_EXECUTABLE} ${CMAKE_SOURCE_DIR}/cmake/pythons.py
    OUTPUT_VARIABLE lines OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE "\n" ";" lines "${lines}")
  set(versions "")
  foreach(line IN LISTS lines)
    string(REPLACE "|" ";" parts "${line}")
    list(POP_FRONT parts version suffix folder)
    list(APPEND versions ${version})
    if(version VERSION_EQUAL "${Python_VERSION_MAJOR}.${Python_VERSION_MINOR}")
      continue()
    endif()
    set(name _native_${version})
    add_library(${name} MODULE ${sources})
    # Debian's pyconfig.h includes <machine/pythonX.Y/pyconfig.h>, from the folder above. That may
    # hold another system's headers, too, so that one folder alone is made visible.
    cmake_path(GET folder FILENAME python)
    set(by_machine ${CMAKE_LIBRARY_ARCHITECTURE}/${python})
    set(links ${CMAKE_BINARY_DIR}/${version}/include)
    if(EXISTS ${folder}/../${by_machine}/pyconfig.h)
      file(MAKE_DIRECTORY ${links}/${CMAKE_LIBRARY_ARCHITECTURE})
      file(CREATE_LINK ${folder}/../${by_machine} ${links}/${by_machine} SYMBOLIC)
    endif()
    target_include_directories(${name} SYSTEM PRIVATE ${folder} ${links} ${pybind11_INCLUDE_DIRS})
    target_link_libraries(${name} PRIVATE thrifty_core)
    set_target_properties(${name} PROPERTIES PREFIX "" OUTPUT_NAME _native SUFFIX ${suffix}
      LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/${version})
    thrifty_install(${name})
  endforeach()
  list(JOIN versions " " versions)
  file(WRITE ${CMAKE_BINARY_DIR}/pythons.txt "thrifty: for Python ${versions}.\n")
endfunction()
