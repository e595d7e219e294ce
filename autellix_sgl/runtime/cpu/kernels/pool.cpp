#include "pool.h"

#include <ATen/Parallel.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

namespace autellix_cpu {
namespace {

using Clock = std::chrono::steady_clock;

// A worker stays awake this long for the next job: longer than the Python between two kernels of a
// step, shorter than what comes between two steps. An idle server has no thread awake.
constexpr std::chrono::microseconds kAwake{200};
constexpr int64_t kMaxTasks = 0xFFFF;
constexpr int kSpinsBeforeYield = 4096;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

// What tasks remain, in one word so that a claim is valid exactly for the job it was read from:
// number of the job (32 bits), its tasks (16), the next task (16).
struct Ticket {
  uint64_t word;
  uint64_t tasks() const { return word >> 16 & 0xFFFF; }
  uint64_t next() const { return word & 0xFFFF; }
  bool left() const { return next() < tasks(); }
};

class Workers {
 public:
  explicit Workers(int64_t count) : count_(count) {
    for (int64_t i = 0; i < count; ++i) std::thread([this] { work(); }).detach();
  }

  int64_t count() const { return count_; }

  void run(int64_t tasks, void (*run)(const void*, int64_t), const void* context) {
    run_ = run;
    context_ = context;
    done_.store(0, std::memory_order_relaxed);
    const uint64_t job = ++jobs_;
    ticket_.store(job << 32 | static_cast<uint64_t>(tasks) << 16);
    wake_.store(static_cast<uint32_t>(job));
    wake_.notify_all();
    while (take()) {
    }
    for (int spins = 0; done_.load(std::memory_order_acquire) < tasks; ++spins) {
      if (spins < kSpinsBeforeYield) {
        pause();
      } else {
        sched_yield();
      }
    }
  }

 private:
  // Claims and runs one task; false if none is left. The job cannot end while a claim is held, so
  // run_ and context_ are the claimed job's.
  bool take() {
    Ticket ticket{ticket_.load(std::memory_order_acquire)};
    while (ticket.left()) {
      if (!ticket_.compare_exchange_weak(ticket.word, ticket.word + 1)) continue;
      run_(context_, static_cast<int64_t>(ticket.next()));
      done_.fetch_add(1, std::memory_order_release);
      return true;
    }
    return false;
  }

  void work() {
    for (;;) {
      const uint32_t seen = wake_.load();
      auto last = Clock::now();
      for (int spins = 1;; ++spins) {
        if (take()) {
          last = Clock::now();
        } else if (spins % 64 == 0 && Clock::now() - last > kAwake) {
          break;
        } else {
          pause();
        }
      }
      // A job published since `seen` was read changes the word, and this returns at once.
      wake_.wait(seen);
    }
  }

  const int64_t count_;
  uint64_t jobs_ = 0;
  void (*run_)(const void*, int64_t) = nullptr;
  const void* context_ = nullptr;
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<uint32_t> wake_{0};
};

Workers& workers() {
  // Never destroyed: its threads outlive static destruction.
  static Workers* const instance = new Workers(std::max(0, at::get_num_threads() - 1));
  return *instance;
}

std::mutex in_use;

}  // namespace

int64_t thread_count() { return std::min<int64_t>(workers().count() + 1, at::get_num_threads()); }

void run_tasks(int64_t count, void (*run)(const void*, int64_t), const void* context) {
  std::unique_lock<std::mutex> owner(in_use, std::defer_lock);
  if (count <= 1 || thread_count() == 1 || at::in_parallel_region() || !owner.try_lock()) {
    for (int64_t i = 0; i < count; ++i) run(context, i);
    return;
  }
  const int64_t whole = std::min(count, kMaxTasks);
  workers().run(whole, run, context);
  for (int64_t i = whole; i < count; ++i) run(context, i);
}

}  // namespace autellix_cpu
