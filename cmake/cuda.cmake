# SPDX-License-Identifier: Apache-2.0
# What the CUDA sources need, all of it optional.
#
# C++ compiles them for the emulator (kernels/emu); nvcc compiles them for devices. Without a C++
# compiler there is no emulator and no test of kernels, without nvcc no plugin, and all the rest
# builds. PHALANX_CUDA: AUTO (where nvcc is found), ON (fail without it) or OFF.
set(PHALANX_CUDA AUTO CACHE STRING "Compile for CUDA devices: AUTO, ON or OFF")
set(PHALANX_CUDA_ARCHITECTURES "80;90a" CACHE STRING "Device architectures to compile for")

# One compiler family for C and C++, so that sanitizers agree on their run-time library.
if(NOT CMAKE_CXX_COMPILER AND NOT DEFINED ENV{CXX} AND CMAKE_C_COMPILER MATCHES "clang[-0-9]*$")
  string(REGEX REPLACE "clang([-0-9]*)$" "clang++\\1" clangxx "${CMAKE_C_COMPILER}")
  if(EXISTS "${clangxx}")
    set(CMAKE_CXX_COMPILER "${clangxx}" CACHE FILEPATH "C++ compiler")
  endif()
endif()
include(CheckLanguage)
check_language(CXX)
if(CMAKE_CXX_COMPILER)
  enable_language(CXX)
  set(CMAKE_CXX_STANDARD 17)
  set(CMAKE_CXX_STANDARD_REQUIRED ON)
else()
  message(STATUS "No C++ compiler: the emulator of CUDA and its tests are left out")
endif()

set(PHALANX_NVCC "")
if(NOT PHALANX_CUDA STREQUAL "OFF")
  find_program(PHALANX_NVCC_PROGRAM nvcc HINTS /usr/local/cuda/bin)
  if(PHALANX_NVCC_PROGRAM)
    set(PHALANX_NVCC ${PHALANX_NVCC_PROGRAM})
    get_filename_component(cuda ${PHALANX_NVCC} REALPATH)
    get_filename_component(cuda ${cuda}/../.. ABSOLUTE)
    find_library(PHALANX_CUDART NAMES libcudart_static.a
      HINTS ${cuda}/lib64 ${cuda}/targets/x86_64-linux/lib)
    if(NOT PHALANX_CUDART)
      message(FATAL_ERROR
        "nvcc is there, but libcudart_static.a is not; -DPHALANX_CUDA=OFF does without both")
    endif()
  elseif(PHALANX_CUDA STREQUAL "ON")
    message(FATAL_ERROR "PHALANX_CUDA is ON, but nvcc was not found")
  else()
    message(STATUS "nvcc was not found: nothing is compiled for CUDA devices")
  endif()
endif()

# Whatever runs on a device is linked with it.
if(PHALANX_NVCC)
  get_filename_component(cuda_folder ${PHALANX_NVCC} REALPATH)
  get_filename_component(cuda_folder ${cuda_folder}/../.. ABSOLUTE)
  find_library(PHALANX_CUDART NAMES libcudart_static.a
    HINTS ${cuda_folder}/lib64 ${cuda_folder}/targets/x86_64-linux/lib)
  if(NOT PHALANX_CUDART)
    message(FATAL_ERROR
      "nvcc is there, but libcudart_static.a is not; -DPHALANX_CUDA=OFF does without both")
  endif()
endif()

# phalanx_emulated(NAME SOURCES ... [LINK ...]): .cu and .cpp files as a library for the emulator.
function(phalanx_emulated name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK" ${ARGN})
  foreach(source IN LISTS A_SOURCES)
    if(source MATCHES "\\.cu$")
      # -O1 takes half the time to compile; they wait, not compute. clang's -Wconversion means signs
      # too in C++, that of g++ and nvcc does not.
      set_source_files_properties(${source} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS
        "-x;c++;-Wno-unknown-pragmas;$<$<CXX_COMPILER_ID:Clang>:-Wno-sign-conversion>;-O1")
    endif()
  endforeach()
  phalanx_library(${name} SOURCES ${A_SOURCES} LINK phalanx_emu ${A_LINK})
endfunction()

# phalanx_device_objects(NAME SOURCES ...): compiles .cu files with nvcc for all architectures, with
# warnings as errors. NAME becomes a target with the property DEVICE_OBJECTS; what ptxas said about
# registers and spills lies beside each object as FILE.cu.o.txt. Multiplications and additions are
# contracted nowhere but where the source says fma, as on the host.
function(phalanx_device_objects name)
  cmake_parse_arguments(A "" "" "SOURCES" ${ARGN})
  set(flags -std=c++17 -O3 -fmad=false -Werror all-warnings -Xptxas -v -I${PROJECT_SOURCE_DIR}
    -Xcompiler=-fPIC,-Wall,-Wextra,-Werror,-fno-exceptions,-fno-threadsafe-statics)
  foreach(architecture IN LISTS PHALANX_CUDA_ARCHITECTURES)
    list(APPEND flags -gencode=arch=compute_${architecture},code=sm_${architecture})
  endforeach()
  set(objects)
  foreach(source IN LISTS A_SOURCES)
    get_filename_component(from ${source} ABSOLUTE)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${source}.o)
    get_filename_component(folder ${object} DIRECTORY)
    file(MAKE_DIRECTORY ${folder})
    add_custom_command(OUTPUT ${object}
      COMMAND ${CMAKE_COMMAND} -DREPORT=${object}.txt -P ${PROJECT_SOURCE_DIR}/cmake/nvcc.cmake
        -- ${PHALANX_NVCC} ${flags} -MD -MF ${object}.d -c ${from} -o ${object}
      DEPENDS ${from} ${PROJECT_SOURCE_DIR}/cmake/nvcc.cmake DEPFILE ${object}.d
      COMMENT "Compiling ${source} for CUDA" VERBATIM)
    list(APPEND objects ${object})
  endforeach()
  add_custom_target(${name} ALL DEPENDS ${objects})
  set_target_properties(${name} PROPERTIES DEVICE_OBJECTS "${objects}")
endfunction()

# phalanx_plugins(): libphalanx_emu.so and libphalanx_cuda.so of the folders that have been added. A
# plugin shows what its map names and hides the rest.
function(phalanx_plugins)
  set(map ${PROJECT_SOURCE_DIR}/cmake/plugin.map)
  if(TARGET phalanx_kernels_emu)
    add_library(phalanx_emu_plugin SHARED $<TARGET_OBJECTS:phalanx_kernels_emu>)
    if(TARGET phalanx_collectives_emu)
      target_sources(phalanx_emu_plugin PRIVATE $<TARGET_OBJECTS:phalanx_collectives_emu>)
    endif()
    target_link_libraries(phalanx_emu_plugin PRIVATE phalanx_emu phalanx_cuda_host phalanx_base)
    target_link_options(phalanx_emu_plugin PRIVATE -Wl,--version-script=${map})
    set_target_properties(phalanx_emu_plugin PROPERTIES OUTPUT_NAME phalanx_emu LINK_DEPENDS ${map}
      LINKER_LANGUAGE CXX LIBRARY_OUTPUT_DIRECTORY ${CMAKE_RUNTIME_OUTPUT_DIRECTORY})
  endif()
  if(NOT TARGET phalanx_kernels_cuda)
    return()
  endif()
  if(PHALANX_SANITIZE)
    message(STATUS "libphalanx_cuda.so is left out of a build with sanitizers")
    return()
  endif()
  get_target_property(objects phalanx_kernels_cuda DEVICE_OBJECTS)
  set(targets phalanx_kernels_cuda)
  if(TARGET phalanx_collectives_cuda)
    get_target_property(more phalanx_collectives_cuda DEVICE_OBJECTS)
    list(APPEND objects ${more})
    list(APPEND targets phalanx_collectives_cuda)
  endif()
  # cudart is linked in and everything else of CUDA is loaded at run time, so that the library
  # loads on any machine.
  set(plugin ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/libphalanx_cuda.so)
  add_custom_command(OUTPUT ${plugin}
    COMMAND ${CMAKE_C_COMPILER} -shared -s -Wl,-z,defs -Wl,--version-script=${map} -o ${plugin}
      ${objects} $<TARGET_FILE:phalanx_cuda_host> $<TARGET_FILE:phalanx_base> ${PHALANX_CUDART}
      -lpthread -ldl -lrt -lm
    DEPENDS ${objects} phalanx_cuda_host phalanx_base ${map} COMMENT "Linking libphalanx_cuda.so" VERBATIM)
  add_custom_target(phalanx_cuda_plugin ALL DEPENDS ${plugin})
  add_dependencies(phalanx_cuda_plugin ${targets})
endfunction()
