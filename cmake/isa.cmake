# One source, compiled once per instruction set into its own namespace (-DTHRIFTY_ISA=<name>) and
# picked at run time by csrc/core/dispatch.h. These objects must not hold weak symbols: the linker
# keeps one copy of each, and if that were the AVX-512 one it would run on every machine
# (.ci/check_weak_symbols.py looks at the objects).

set(THRIFTY_FLAGS_baseline "")
set(THRIFTY_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(THRIFTY_FLAGS_avx512
  ${THRIFTY_FLAGS_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
set(THRIFTY_FLAGS_amx ${THRIFTY_FLAGS_avx512} -mavx512bf16 -mamx-tile -mamx-bf16)

set(THRIFTY_ISAS baseline)
if(THRIFTY_X86)
  list(APPEND THRIFTY_ISAS avx2)
  if(NOT THRIFTY_SANITIZE)  # there tests/core has twins of the other two, which every machine runs
    list(APPEND THRIFTY_ISAS avx512 amx)
  endif()
endif()

# thrifty_isa_library(name, namespace, sources, flags...): the object library `name`.
# -Wno-psabi: GCC remarks how vectors wider than a register are passed; ours never leave a file.
# -ffp-contract: said aloud because compilers differ; a GEMM without FMA loses half its speed.
# -Wno-*uninitialized: GCC 12 warns of its own _mm512_undefined_epi32() (GCC bug 105593).
function(thrifty_isa_library name isa sources)
  add_library(${name} OBJECT ${sources})
  target_link_libraries(${name} PRIVATE thrifty_base)
  target_compile_definitions(${name} PRIVATE THRIFTY_ISA=${isa})
  target_compile_options(${name} PRIVATE
    -Wno-psabi -Wno-uninitialized -Wno-maybe-uninitialized -ffp-contract=fast ${ARGN})
endfunction()

function(thrifty_isa_libraries core sources)
  foreach(isa IN LISTS THRIFTY_ISAS)
    thrifty_isa_library(thrifty_isa_${isa} ${isa} "${sources}" ${THRIFTY_FLAGS_${isa}})
    target_sources(${core} PRIVATE $<TARGET_OBJECTS:thrifty_isa_${isa}>)
  endforeach()
endfunction()

# thrifty_isa_stands_for(target, isa, other): in the executable `target` the tables of `isa` are
# those of `other`, which are linked. A name that --defsym defines takes no member of an archive.
function(thrifty_isa_stands_for target isa other)
  file(GLOB headers ${CMAKE_SOURCE_DIR}/csrc/*/*.h)
  foreach(header IN LISTS headers)
    file(STRINGS ${header} tables REGEX "^THRIFTY_ISA_TABLE")
    foreach(table IN LISTS tables)
      string(REGEX REPLACE ".*, ([a-z_]+)\\).*" "\\1" table "${table}")
      foreach(part IN ITEMS isa other table)  # as the compiler mangles names
        string(LENGTH ${${part}} length)
        set(${part}_symbol ${length}${${part}})
      endforeach()
      target_link_options(${target} PRIVATE "LINKER:--defsym,\
_ZN7thrifty${isa_symbol}${table_symbol}E=_ZN7thrifty${other_symbol}${table_symbol}E")
    endforeach()
  endforeach()
endfunction()
