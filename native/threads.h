// A pool whose threads run one function together and pass the same steps in the same order. The items
// of a step are dealt out: each thread begins with a share and then takes what the others have not
// begun, so one that the system keeps off the processor holds nothing up but the item it is at. Each
// counts for itself what it did and reads the others' counts, and so learns that a step is over from
// one line of each. A caller that had to wait long works alone for a while. Idle threads spin
// for a moment, then sleep.
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
  // A thread's part in a run; one that is not of a pool does everything.
  class Member {
   public:
    Member() = default;

    bool alone() const { return !pool_; }
    long self() const { return self_; }  // 0 for the caller's, or alone

    // f(i) for every i in [0, n), in any order, on any thread; returns when all is done. A thread that
    // does any of it calls first() before: nothing that the items read changes from then on.
    template <class F, class First>
    void share(long n, const F& f, const First& first) {
      if (!pool_) {
        first();
        for (long i = 0; i < n; ++i) f(i);
        return;
      }
      ++step_;
      due_ += n;
      bool ready = false;
      const auto work = [&](long share) {
        const long end = pool_->first_of(share + 1, n), size = end - pool_->first_of(share, n);
        long left = pool_->claim(share, step_, size);
        if (share != self_) late_ = left > 0 && left == size;
        if (left == 0) return;
        if (!ready) first();
        ready = true;
        for (; left > 0; left = pool_->claim(share, step_, size), ++did_) f(end - left);
        pool_->shares_[self_].done.store(did_, std::memory_order_release);
      };
      const auto over = [&] { return pool_->done() >= due_; };
      work(self_);
      if (spin(late_ ? 0 : kMoment, over)) return;
      for (long i = 1; i < pool_->n_threads_; ++i) work((self_ + i) % pool_->n_threads_);
      while (!wait(kStall, over))
        if (self_ == 0) pool_->stalled();
    }

    template <class F>
    void share(long n, const F& f) {
      share(n, f, [] {});
    }

   private:
    friend Pool;
    Member(Pool* pool, long self)
        : pool_(pool), self_(self), step_(pool->step_), due_(pool->due_),
          did_(pool->shares_[self].done.load(std::memory_order_relaxed)) {}

    Pool* pool_ = nullptr;
    long self_ = 0;
    bool late_ = false;  // another, whose share was begun for it
    std::uint64_t step_ = 0, due_ = 0, did_ = 0;  // the step it is at; all items up to its end; its own
  };

  Pool(int n_threads, void (*before_sleep)())
      : n_threads_(n_threads), before_sleep_(before_sleep), shares_(n_threads) {
    for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { serve(i); });
  }

  ~Pool() {
    stop_.store(true);
    turn(2);
    for (auto& worker : workers_) worker.join();
  }

  long n_threads() const { return n_threads_; }

  // f(member) on every thread that comes before the caller is through; returns when all have left. No
  // step of a `brief` run is worth a long wait.
  template <class F>
  void run(const F& f, bool brief = true) {
    Member alone;
    if (workers_.empty() || (brief && Clock::now() < alone_until_)) return f(alone);
    call_ = [](const void* work, Member& member) { (*static_cast<const F*>(work))(member); };
    work_ = &f;
    brief_ = brief;
    turn(1);
    Member caller(this, 0);
    f(caller);
    gate_.fetch_add(kTurn);
    while (!wait(kStall, [&] { return gate_.load(std::memory_order_acquire) % kTurn == 0; })) stalled();
    step_ = caller.step_;
    due_ = caller.due_;
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
  static constexpr long kLine = 64;   // bytes of a cache line
  static constexpr int kMoment = 60;  // pauses before a thread looks what others have left
  // how long the idle spin; more than an item takes; how long a caller that had to wait works alone
  static constexpr std::chrono::microseconds kPatience{300}, kStall{500}, kAlone{30000};

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  template <class F>
  static bool spin(int n, const F& condition) {
    for (int i = 0; i < n; ++i) {
      if (condition()) return true;
      pause();
    }
    return false;
  }

  // Whether the condition came true in time. Now and then the processor goes to whoever else wants
  // it: two of our own threads may have been put on one core.
  template <class F>
  static bool wait(std::chrono::microseconds patience, const F& condition) {
    if (spin(256, condition)) return true;
    for (const auto end = Clock::now() + patience; Clock::now() < end;) {
      std::this_thread::yield();
      if (spin(256, condition)) return true;
    }
    return condition();
  }

  void stalled() {
    if (brief_) alone_until_ = Clock::now() + kAlone;
  }

  long first_of(long share, long n) const { return share * n / n_threads_; }

  // Takes an item of a share; how many were left. A ticket holds the step and the items left in it,
  // so a claim made with an old one fails. Whoever comes first begins the share.
  long claim(long share, std::uint64_t step, long size) {
    std::atomic<std::uint64_t>& word = shares_[share].ticket;
    std::uint64_t ticket = word.load(std::memory_order_acquire), left;
    do {
      const auto age = static_cast<std::int64_t>(step * kItems - ticket / kItems * kItems);
      left = age > 0 ? size : age < 0 ? 0 : ticket % kItems;
      if (left == 0) return 0;
    } while (!word.compare_exchange_weak(ticket, step * kItems + left - 1, std::memory_order_acq_rel,
                                         std::memory_order_acquire));
    return left;
  }

  // Items done, of all steps.
  std::uint64_t done() const {
    std::uint64_t sum = 0;
    for (const Share& share : shares_) sum += share.done.load(std::memory_order_acquire);
    return sum;
  }

  // The gate's turn is odd while it is open; below it, how many workers are inside.
  void turn(std::uint64_t by) {
    gate_.fetch_add(by * kTurn);
    if (sleeping_.load() && sleeping_.exchange(false)) {  // woken once, however late they come
      { std::lock_guard<std::mutex> lock(mutex_); }
      wake_.notify_all();
    }
  }

  void serve(long self) {
    for (std::uint64_t seen = 0;;) {
      const auto turned = [&] { return gate_.load() / kTurn != seen; };
      if (!wait(kPatience, turned)) {
        before_sleep_();
        std::unique_lock<std::mutex> lock(mutex_);
        while (sleeping_.store(true), !turned()) wake_.wait(lock);  // said again each time it wakes
      }
      if (stop_.load()) return;
      std::uint64_t gate = gate_.load();
      while (gate / kTurn % 2 && !gate_.compare_exchange_weak(gate, gate + 1)) continue;
      seen = gate / kTurn;
      if (seen % 2 == 0) continue;
      Member member(this, self);
      call_(work_, member);
      gate_.fetch_sub(1, std::memory_order_release);
    }
  }

  // a step within a ticket, above more items than a share has; a turn of the gate, above all workers
  static constexpr std::uint64_t kItems = std::uint64_t{1} << 24, kTurn = std::uint64_t{1} << 16;

  struct Share {  // on lines of their own, since whoever writes one takes it from the others
    alignas(kLine) std::atomic<std::uint64_t> ticket{0};
    alignas(kLine) std::atomic<std::uint64_t> done{0};  // items of any share that this thread did
  };

  std::vector<std::thread> workers_;
  const long n_threads_;
  void (*const before_sleep_)();
  std::vector<Share> shares_;  // of each thread, the caller's first
  void (*call_)(const void* work, Member& member) = nullptr;
  const void* work_ = nullptr;
  bool brief_ = false;
  std::uint64_t step_ = 0, due_ = 0;  // where the next run begins
  Clock::time_point alone_until_{};
  alignas(kLine) std::atomic<std::uint64_t> gate_{0};
  alignas(kLine) std::atomic<bool> sleeping_{false};  // whether somebody may be
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace anser
