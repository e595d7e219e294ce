// Fork-join threads for many short kernels on a machine that others use too.
//
// An OpenMP region ends when every thread of its team has come and gone: a thread that waits for a
// core, because a tokenizer or a client has it, holds up the model for a time slice, several hundred
// times a step. Here the calling thread starts at once and takes tasks until none is left; workers
// that are awake take some, workers that are not cost nothing, and the caller waits only for tasks
// that a worker has begun.
#pragma once

#include <cstdint>

namespace autellix_cpu {

// Runs run(context, i) once for each i in [0, count), on the caller and idle workers; returns when
// all are done. Serial if another thread is using the workers.
void run_tasks(int64_t count, void (*run)(const void*, int64_t), const void* context);

// Threads that take part, the caller included: ATen's thread count when first used.
int64_t thread_count();

template <typename Task>
void parallel_tasks(int64_t count, const Task& task) {
  run_tasks(
      count, [](const void* context, int64_t i) { (*static_cast<const Task*>(context))(i); }, &task);
}

}  // namespace autellix_cpu
