// SPDX-License-Identifier: Apache-2.0
// MPI_Allreduce in place on float32, and memcpy on all ranks at once. One JSON line per size and operation: the median
// over repetitions of the slowest rank's time.
//   mpirun -n 2 allreduce_mpi SECONDS BYTES...
#include <mpi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

namespace {

constexpr int kFewest = 9, kMost = 5000;  // repetitions

double milliseconds(double seconds_to_spend, const std::function<void()>& call) {
  for (int i = 0; i < 3; ++i) call();
  MPI_Barrier(MPI_COMM_WORLD);
  double start = MPI_Wtime();
  call();
  int repetitions =
      static_cast<int>(std::min<double>(kMost, seconds_to_spend / std::max(MPI_Wtime() - start, 1e-6)));
  repetitions = std::max(repetitions, kFewest);
  MPI_Bcast(&repetitions, 1, MPI_INT, 0, MPI_COMM_WORLD);
  std::vector<double> times(static_cast<size_t>(repetitions));
  for (double& time : times) {
    MPI_Barrier(MPI_COMM_WORLD);
    start = MPI_Wtime();
    call();
    time = MPI_Wtime() - start;
  }
  MPI_Allreduce(MPI_IN_PLACE, times.data(), repetitions, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  std::nth_element(times.begin(), times.begin() + repetitions / 2, times.end());
  return 1e3 * times[static_cast<size_t>(repetitions) / 2];
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  const double seconds = argc > 1 ? std::atof(argv[1]) : 0.5;
  for (int i = 2; i < argc; ++i) {
    const size_t bytes = std::strtoull(argv[i], nullptr, 10);
    std::vector<float> x(bytes / sizeof(float)), y(x.size());
    const auto report = [&](const char* op, double ms) {
      if (rank == 0) std::printf("{\"op\": \"%s\", \"bytes\": %zu, \"ms\": %.5f}\n", op, bytes, ms);
    };
    report("allreduce", milliseconds(seconds, [&] {
             MPI_Allreduce(MPI_IN_PLACE, x.data(), static_cast<int>(x.size()), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
           }));
    report("memcpy", milliseconds(seconds, [&] { std::memcpy(y.data(), x.data(), bytes); }));
  }
  MPI_Finalize();
}
