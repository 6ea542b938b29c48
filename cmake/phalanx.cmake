# SPDX-License-Identifier: Apache-2.0
# Flags that every target of ours gets, and the one way to declare a library or a program.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

add_library(phalanx_flags INTERFACE)
target_include_directories(phalanx_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_definitions(phalanx_flags INTERFACE _GNU_SOURCE
  PHALANX_VERSION="${PROJECT_VERSION}")
# Contraction is off: fused multiply-adds happen where the source says fma, nowhere else, so that
# every compiler and every vector width computes the same bits.
target_compile_options(phalanx_flags INTERFACE
  -Wall -Wextra -Wconversion -Wshadow -Wvla
  $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes> $<$<COMPILE_LANGUAGE:C>:-Wmissing-prototypes>
  -Wno-missing-field-initializers -Werror
  -ffp-contract=off -fno-strict-aliasing -fno-math-errno -fstack-protector-strong)
if(PHALANX_SANITIZE)
  target_compile_options(phalanx_flags INTERFACE -fsanitize=${PHALANX_SANITIZE}
    -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(phalanx_flags INTERFACE -fsanitize=${PHALANX_SANITIZE})
endif()
# Fuzzers follow the coverage of everything that they link.
if(PHALANX_FUZZ)
  target_compile_options(phalanx_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# phalanx_library(NAME SOURCES ... [LINK ...]): a static library of one folder.
function(phalanx_library name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  target_link_libraries(${name} PUBLIC phalanx_flags ${A_LINK} Threads::Threads)
endfunction()

# phalanx_program(NAME SOURCES ... [LINK ...]): a program in bin/.
function(phalanx_program name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE phalanx_flags ${A_LINK} Threads::Threads)
endfunction()

# phalanx_fuzzer(NAME SOURCES ... [LINK ...]): a libFuzzer target, only with PHALANX_FUZZ and clang.
function(phalanx_fuzzer name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK" ${ARGN})
  if(NOT PHALANX_FUZZ)
    return()
  endif()
  add_executable(${name} ${A_SOURCES})
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_libraries(${name} PRIVATE phalanx_flags ${A_LINK} Threads::Threads)
endfunction()
