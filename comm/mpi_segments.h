// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace rekindle {

// Open MPI makes a file of 4 MiB for each rank in /dev/shm, and MPI_Init fails where they do not all fit, as
// in containers, which have 64 MB there and less. Then this has them made in the run's session directory,
// which mpirun removes. To be called before MPI_Init; changes nothing where there is room, where the user has
// chosen a place (OMPI_MCA_btl_vader_backing_directory), and outside of mpirun.
void find_room_for_segments();

}  // namespace rekindle
