// A pool whose threads each begin with a share of the items and then take what the others have not
// begun, so one that the system keeps off the processor holds nothing up but the item it is at. If
// that takes long, the caller works alone for a while. Idle threads spin for a moment, then sleep.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace anser {

class Pool {
 public:
  Pool(int n_threads, void (*before_sleep)())
      : n_threads_(n_threads), before_sleep_(before_sleep), shares_(n_threads) {
    for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { serve(i); });
  }

  ~Pool() {
    publish(0, true);
    for (auto& worker : workers_) worker.join();
  }

  long n_threads() const { return n_threads_; }

  // f(i) for every i in [0, n), in any order, on any thread; returns when all are done. What f
  // holds by value reaches the other threads at once, what it refers to a cache line at a time.
  // Of `brief` items none is worth a long wait.
  template <class F>
  void run(long n, const F& f, bool brief = true) {
    static_assert(std::is_trivially_copyable<F>::value && sizeof f <= sizeof job_.work, "copied");
    if (workers_.empty() || n <= 1 || (brief && Clock::now() < alone_until_)) {
      for (long i = 0; i < n; ++i) f(i);
      return;
    }
    job_.call = [](const void* work, long i) { (*static_cast<const F*>(work))(i); };
    std::memcpy(job_.work, static_cast<const void*>(&f), sizeof f);
    done_.store(0, std::memory_order_relaxed);
    publish(n, false);
    const long others = n - work(0);
    const auto complete = [&] { return done_.load(std::memory_order_acquire) == others; };
    while (!wait(kStall, complete))
      if (brief) alone_until_ = Clock::now() + kAlone;
  }

  // What the thread that begins with item i of n has next: the following item of its share, or of the
  // next n its first.
  long next(long i, long n) const {
    long share = 0;
    while (first_of(share + 1, n) <= i) ++share;
    return i + 1 < first_of(share + 1, n) ? i + 1 : first_of(share, n);
  }

  // Returns once the condition is true, by what another thread does.
  template <class F>
  static void await(const F& condition) {
    while (!condition()) wait(kStall, condition);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr long kLine = 64;  // bytes of a cache line
  // how long the idle spin; more than an item takes; how long a caller that had to wait works alone
  static constexpr std::chrono::microseconds kPatience{300}, kStall{500}, kAlone{30000};

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  // Whether the condition came true in time. Now and then the processor goes to whoever else wants
  // it: two of our own threads may have been put on one core.
  template <class F>
  static bool wait(std::chrono::microseconds patience, const F& condition) {
    for (const auto end = Clock::now() + patience; Clock::now() < end; std::this_thread::yield())
      for (int i = 0; i < 256; ++i) {
        if (condition()) return true;
        pause();
      }
    return condition();
  }

  long first_of(long share, long n) const { return share * n / n_threads_; }

  void publish(long n, bool stop) {
    if (stop) stop_.store(true);
    job_.n = n;
    round_ += std::uint64_t{1} << 32;
    for (long i = n_threads_; i-- > 0;)
      shares_[i].ticket.store(round_ | (first_of(i + 1, n) - first_of(i, n)));
    if (sleeping_.load() && sleeping_.exchange(false)) {  // woken once, however late they come
      { std::lock_guard<std::mutex> lock(mutex_); }
      wake_.notify_all();
    }
  }

  // A ticket holds the round and the items left in it, so a claim made with an old round fails.
  bool claim(long share) {
    std::atomic<std::uint64_t>& word = shares_[share].ticket;
    std::uint64_t ticket = word.load(std::memory_order_acquire);
    do {
      if (static_cast<std::uint32_t>(ticket) == 0) return false;
    } while (!word.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel,
                                         std::memory_order_acquire));
    const long left = static_cast<std::uint32_t>(ticket);
    job_.call(job_.work, first_of(share + 1, job_.n) - left);
    return true;
  }

  // One's own share, then what is left of the others'; how many items that were.
  long work(long self) {
    long done = 0;
    for (long i = 0; i < n_threads_; ++i)
      while (claim((self + i) % n_threads_)) ++done;
    return done;
  }

  void serve(long self) {
    for (;;) {
      const std::uint64_t seen = shares_[self].ticket.load() >> 32;
      if (stop_.load()) return;  // after `seen`: the stop behind it is a change that wakes
      // all that the work begins with, asked for at once
      for (long i = 0; i < static_cast<long>(sizeof job_); i += kLine)
        __builtin_prefetch(reinterpret_cast<const char*>(&job_) + i);
      __builtin_prefetch(&done_, 1);
      if (const long done = work(self)) done_.fetch_add(done, std::memory_order_release);
      const auto changed = [&] {
        __builtin_prefetch(&shares_[self].ticket, 1);  // to be claimed from
        return shares_[self].ticket.load() >> 32 != seen;
      };
      if (wait(kPatience, changed)) continue;
      before_sleep_();
      std::unique_lock<std::mutex> lock(mutex_);
      while (sleeping_.store(true), !changed()) wake_.wait(lock);  // said again each time it wakes
    }
  }

  struct alignas(kLine) Share {  // apart, since whoever writes a line takes it from the others
    std::atomic<std::uint64_t> ticket{0};
  };

  struct alignas(kLine) Job {
    void (*call)(const void* work, long item);
    long n;
    alignas(16) char work[6 * kLine - 16];  // a copy of f
  };

  std::vector<std::thread> workers_;
  const long n_threads_;
  void (*const before_sleep_)();
  std::vector<Share> shares_;  // of each thread, the caller's first
  Job job_{};
  alignas(kLine) std::atomic<long> done_{0};
  std::atomic<bool> sleeping_{false};  // whether somebody may be
  std::atomic<bool> stop_{false};
  std::uint64_t round_ = 0;
  Clock::time_point alone_until_{};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace anser
