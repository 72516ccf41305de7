# SPDX-License-Identifier: Apache-2.0
# Finds LibTorch in a PyTorch wheel or in an unpacked LibTorch, and makes the imported target rekindle::torch.
#
# The wheel's own CMake package switches the CUDA language on and fails without a whole CUDA toolkit. What we need of
# it is two include paths and two libraries, so we take just these. A toolkit on the machine is never looked at.
#
# Where it has CUDA there is rekindle::torch_cuda too, for what calls CUDA's runtime and NCCL: headers of both, libc10_cuda
# and the runtime. libtorch_cuda and libnccl are loaded when there is a GPU (comm/nccl_library.h).
#
# TORCH_ROOT (CMake or environment) names the folder that holds include/ and lib/; default: .deps/ as
# scripts/setup.sh makes it.

set(_torch_hints ${TORCH_ROOT} $ENV{TORCH_ROOT})
if(NOT _torch_hints)
  file(GLOB _torch_hints ${PROJECT_SOURCE_DIR}/.deps/python/lib/python3*/site-packages/torch)
endif()

find_path(LibTorch_INCLUDE_DIR ATen/core/Tensor.h PATHS ${_torch_hints} PATH_SUFFIXES include NO_DEFAULT_PATH)
find_library(LibTorch_CPU_LIBRARY torch_cpu PATHS ${_torch_hints} PATH_SUFFIXES lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 PATHS ${_torch_hints} PATH_SUFFIXES lib NO_DEFAULT_PATH)

if(LibTorch_INCLUDE_DIR AND EXISTS ${LibTorch_INCLUDE_DIR}/torch/headeronly/version.h)
  set(_torch_version_header ${LibTorch_INCLUDE_DIR}/torch/headeronly/version.h)
elseif(LibTorch_INCLUDE_DIR)
  set(_torch_version_header ${LibTorch_INCLUDE_DIR}/torch/csrc/api/include/torch/version.h)
endif()
if(_torch_version_header)
  file(STRINGS ${_torch_version_header} _torch_version_lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
  string(REGEX REPLACE "[^0-9;]" "" _torch_version_numbers "${_torch_version_lines}")
  string(REPLACE ";" "." LibTorch_VERSION "${_torch_version_numbers}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "Run scripts/setup.sh, or set TORCH_ROOT to the folder of a LibTorch >= 2.6")

if(LibTorch_FOUND AND NOT TARGET rekindle::torch)
  add_library(rekindle::torch INTERFACE IMPORTED)
  set_target_properties(rekindle::torch PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${LibTorch_INCLUDE_DIR};${LibTorch_INCLUDE_DIR}/torch/csrc/api/include"
    INTERFACE_LINK_LIBRARIES "${LibTorch_CPU_LIBRARY};${LibTorch_C10_LIBRARY}")
  get_filename_component(LibTorch_LIBRARY_DIR ${LibTorch_CPU_LIBRARY} DIRECTORY)
endif()

# The wheel's dependencies lie beside it: nvidia/nccl, nvidia/cu13.
get_filename_component(_nvidia ${LibTorch_LIBRARY_DIR}/../../nvidia ABSOLUTE)
file(GLOB _cuda_hints ${_nvidia}/cu* ${_nvidia}/cuda_runtime)
find_library(LibTorch_C10_CUDA_LIBRARY c10_cuda PATHS ${LibTorch_LIBRARY_DIR} NO_DEFAULT_PATH)
find_path(LibTorch_CUDA_INCLUDE_DIR cuda_runtime_api.h PATHS ${_cuda_hints} PATH_SUFFIXES include NO_DEFAULT_PATH)
find_path(LibTorch_NCCL_INCLUDE_DIR nccl.h PATHS ${_nvidia}/nccl PATH_SUFFIXES include NO_DEFAULT_PATH)
if(LibTorch_CUDA_INCLUDE_DIR)
  get_filename_component(_cuda ${LibTorch_CUDA_INCLUDE_DIR} DIRECTORY)
  file(GLOB LibTorch_CUDART_LIBRARY ${_cuda}/lib/libcudart.so.*)   # the wheel has no libcudart.so
endif()
if(LibTorch_C10_CUDA_LIBRARY AND LibTorch_CUDART_LIBRARY AND LibTorch_NCCL_INCLUDE_DIR)
  set(LibTorch_HAS_CUDA TRUE)
  get_filename_component(LibTorch_CUDART_DIR ${LibTorch_CUDART_LIBRARY} DIRECTORY)
  if(NOT TARGET rekindle::torch_cuda)
    add_library(rekindle::torch_cuda INTERFACE IMPORTED)
    set_target_properties(rekindle::torch_cuda PROPERTIES
      INTERFACE_INCLUDE_DIRECTORIES "${LibTorch_NCCL_INCLUDE_DIR};${LibTorch_CUDA_INCLUDE_DIR}"
      INTERFACE_LINK_LIBRARIES "${LibTorch_C10_CUDA_LIBRARY};${LibTorch_CUDART_LIBRARY};${CMAKE_DL_LIBS}")
  endif()
else()
  set(LibTorch_HAS_CUDA FALSE)
endif()
mark_as_advanced(LibTorch_INCLUDE_DIR LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_C10_CUDA_LIBRARY
                 LibTorch_CUDA_INCLUDE_DIR LibTorch_NCCL_INCLUDE_DIR)
