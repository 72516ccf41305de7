// SPDX-License-Identifier: Apache-2.0
// A worker that speaks MPI and then ends as it is told: "kill SIGNAL", "exit CODE" (without MPI_Finalize) or
// "wait".
#include <mpi.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  MPI_Barrier(MPI_COMM_WORLD);
  const std::string deed = argv[1];
  const int number = argc > 2 ? std::atoi(argv[2]) : 0;
  if (deed == "kill") kill(getpid(), number);
  if (deed == "exit") _exit(number);
  while (true) pause();
}
