# SPDX-License-Identifier: Apache-2.0
# What is installed: the two programs, and what find_package(rekindle) needs to build a worker of one's own.

# The public headers stand under one name, <rekindle/...>, in the build tree as in the installed one.
set(REKINDLE_PUBLIC_HEADERS
  models/model.h=model.h
  models/options.h=models/options.h
  core/batch.h=core/batch.h
  worker/worker.h=worker.h)
foreach(pair ${REKINDLE_PUBLIC_HEADERS})
  string(REPLACE "=" ";" pair ${pair})
  list(GET pair 0 from)
  list(GET pair 1 to)
  get_filename_component(folder ${to} DIRECTORY)
  get_filename_component(name ${to} NAME)
  file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/include/rekindle/${folder})
  file(CREATE_LINK ${PROJECT_SOURCE_DIR}/${from} ${PROJECT_BINARY_DIR}/include/rekindle/${to} SYMBOLIC)
  install(FILES ${from} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/rekindle/${folder} RENAME ${name})
endforeach()

if(NOT REKINDLE_TORCH)
  return()
endif()

target_include_directories(rekindle_worker PUBLIC $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include>
                                                  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
set_target_properties(rekindle-worker PROPERTIES INSTALL_RPATH "${LibTorch_LIBRARY_DIR};${LibTorch_CUDART_DIR}")

get_property(REKINDLE_LIBRARIES GLOBAL PROPERTY REKINDLE_LIBRARIES)
list(REMOVE_ITEM REKINDLE_LIBRARIES rekindle_launcher)
install(TARGETS rekindle rekindle-worker DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS ${REKINDLE_LIBRARIES} EXPORT rekindle DESTINATION ${CMAKE_INSTALL_LIBDIR})
set(REKINDLE_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/rekindle)
install(EXPORT rekindle NAMESPACE rekindle:: FILE rekindleTargets.cmake DESTINATION ${REKINDLE_PACKAGE_DIR})

get_filename_component(REKINDLE_TORCH_ROOT ${LibTorch_LIBRARY_DIR} DIRECTORY)
include(CMakePackageConfigHelpers)
configure_package_config_file(cmake/rekindleConfig.cmake.in ${PROJECT_BINARY_DIR}/rekindleConfig.cmake
                              INSTALL_DESTINATION ${REKINDLE_PACKAGE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/rekindleConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/rekindleConfig.cmake ${PROJECT_BINARY_DIR}/rekindleConfigVersion.cmake
              cmake/FindLibTorch.cmake
        DESTINATION ${REKINDLE_PACKAGE_DIR})
