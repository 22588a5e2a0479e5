// A pool whose work is claimed, not dealt: of a thread that the system keeps off the processor the
// others take what it has not begun. If what it has begun keeps them waiting, the caller works alone
// for a while. Idle threads spin for a moment, then sleep.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace anser {

class Pool {
 public:
  explicit Pool(int n_threads) {
    for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this] { serve(); });
  }

  ~Pool() {
    publish(0, true);
    for (auto& worker : workers_) worker.join();
  }

  // f(i) for every i in [0, n), in any order, on any thread; returns when all are done.
  template <class F>
  void run(long n, const F& f) {
    if (workers_.empty() || n <= 1 || Clock::now() < alone_until_) {
      for (long i = 0; i < n; ++i) f(i);
      return;
    }
    call_ = [](const void* work, long i) { (*static_cast<const F*>(work))(i); };
    work_ = &f;
    done_.store(0, std::memory_order_relaxed);
    publish(static_cast<std::uint32_t>(n), false);
    while (claim()) {
    }
    const auto complete = [&] { return done_.load(std::memory_order_acquire) == n; };
    if (wait_a_little(complete)) return;
    const auto begin = Clock::now();
    while (!wait_a_little(complete)) {
    }
    if (Clock::now() - begin > kStall) alone_until_ = Clock::now() + kAlone;
  }

 private:
  using Clock = std::chrono::steady_clock;
  // how long the idle spin; more than an item takes; how long a caller that had to wait works alone
  static constexpr std::chrono::microseconds kPatience{50}, kStall{500}, kAlone{30000};

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  // Some hundred cycles, then the processor goes to whoever else wants it: two of our own threads
  // may have been put on one core.
  template <class F>
  static bool wait_a_little(const F& condition) {
    for (int i = 0; i < 32; ++i) {
      if (condition()) return true;
      pause();
    }
    std::this_thread::yield();
    return condition();
  }

  void publish(std::uint32_t n, bool stop) {
    if (stop) stop_.store(true);
    round_ += std::uint64_t{1} << 32;
    ticket_.store(round_ | n);
    if (sleeping_.load() > 0 && sleeping_.exchange(0) > 0) {  // woken once, however late they come
      { std::lock_guard<std::mutex> lock(mutex_); }
      wake_.notify_all();
    }
  }

  // One word holds the round and the items left in it, so a claim made with an old round fails.
  bool claim() {
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    do {
      if (static_cast<std::uint32_t>(ticket) == 0) return false;
    } while (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel,
                                            std::memory_order_acquire));
    call_(work_, static_cast<long>(static_cast<std::uint32_t>(ticket)) - 1);
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }

  void serve() {
    for (;;) {
      const std::uint64_t seen = ticket_.load() >> 32;
      if (stop_.load()) return;  // after `seen`: the stop behind it is a change that wakes
      while (claim()) {
      }
      const auto changed = [&] { return ticket_.load() >> 32 != seen; };
      const auto give_up = Clock::now() + kPatience;
      bool found = false;
      while (!found && Clock::now() < give_up) found = wait_a_little(changed);
      if (found) continue;
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, changed);
    }
  }

  std::vector<std::thread> workers_;
  std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<long> done_{0};
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  std::uint64_t round_ = 0;
  Clock::time_point alone_until_{};
  void (*call_)(const void*, long) = nullptr;
  const void* work_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace anser
