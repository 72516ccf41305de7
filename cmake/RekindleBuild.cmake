# SPDX-License-Identifier: Apache-2.0
# How everything of ours is compiled, and the two functions that the rooms' lists use.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Without this sloppiness ccache never hits on a file that uses the precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE})
endif()

set(REKINDLE_WARNINGS -Wall -Wextra)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  list(APPEND REKINDLE_WARNINGS -Wno-restrict -Wno-stringop-overflow -Wno-array-bounds)   # of std::string itself (GCC bug 105329)
endif()

# A room: rekindle_library(comm SOURCES a.cpp b.cpp LINK rekindle::core) makes rekindle::comm.
function(rekindle_library room)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK;PRIVATE_LINK" ${ARGN})
  add_library(rekindle_${room} STATIC ${ARG_SOURCES})
  add_library(rekindle::${room} ALIAS rekindle_${room})
  set_target_properties(rekindle_${room} PROPERTIES EXPORT_NAME ${room})
  target_include_directories(rekindle_${room} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  target_link_libraries(rekindle_${room} PUBLIC ${ARG_LINK} PRIVATE ${ARG_PRIVATE_LINK})
  target_compile_options(rekindle_${room} PRIVATE ${REKINDLE_WARNINGS})
  set_property(GLOBAL APPEND PROPERTY REKINDLE_LIBRARIES rekindle_${room})
endfunction()

# A test program: rekindle_test(comm_sum_test SOURCES sum_test.cpp LINK rekindle::comm [TIMEOUT 60] [LABELS mpi]).
function(rekindle_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LINK;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LINK} GTest::gmock GTest::gtest_main)
  target_compile_options(${name} PRIVATE ${REKINDLE_WARNINGS})
  target_compile_definitions(${name} PRIVATE REKINDLE_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                                             REKINDLE_BINARY_DIR="${PROJECT_BINARY_DIR}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
                                          ENVIRONMENT "${REKINDLE_TEST_ENVIRONMENT}")
endfunction()

# Python for the tests that have PyTorch or safetensors as their oracle; root needs mpirun's permission.
set(REKINDLE_PYTHON ${PROJECT_SOURCE_DIR}/.deps/python/bin/python CACHE FILEPATH "Python with torch, numpy, safetensors")
set(REKINDLE_TEST_ENVIRONMENT OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1)
if(EXISTS ${REKINDLE_PYTHON})
  list(APPEND REKINDLE_TEST_ENVIRONMENT REKINDLE_PYTHON=${REKINDLE_PYTHON})
endif()
