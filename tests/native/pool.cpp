// The pool, used by a caller that the system keeps off the processor at any point: a timer's signals
// stop it for longer than idle threads spin, so they fall asleep while it publishes. A wake-up that
// is lost shows when the pool is taken down, for then it waits for a thread that sleeps on.
#include <pthread.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <random>
#include <thread>

#include "threads.h"

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr long kRuns = 100, kSteps = 5, kItems = 8;
constexpr std::chrono::seconds kLong{10}, kStuck{5};  // of the whole; of one pool

void interrupt(int) {
  const timespec nap{0, 600000};
  nanosleep(&nap, nullptr);
}

void rest() { std::this_thread::sleep_for(microseconds(100)); }

// Whether every item of every step was done once, after the steps before, and with what its thread
// took from them.
bool use(int n_threads, std::mt19937& random) {
  sigset_t alarm;
  sigemptyset(&alarm);
  sigaddset(&alarm, SIGALRM);
  pthread_sigmask(SIG_BLOCK, &alarm, nullptr);  // the pool's own threads are not interrupted
  anser::Pool pool(n_threads, rest);
  pthread_sigmask(SIG_UNBLOCK, &alarm, nullptr);
  long steps = 0;  // written by one thread, seen by all
  std::atomic<long> sum{0};
  bool right = true;
  for (long run = 0; run < kRuns; ++run) {
    const auto count = [&](anser::Pool::Member& member) {
      for (long step = 0; step < kSteps; ++step) {
        long seen = -1;
        member.share(1, [&](long) { ++steps; });
        member.share(kItems + step, [&](long i) { sum += seen + i; }, [&] { seen = steps; });
        member.share(1, [&](long) {
          const long n = kItems + step;
          right = right && sum == n * steps + n * (n - 1) / 2;
          sum = 0;
        });
      }
    };
    pool.run(count);
    std::atomic<long> next{0}, reached{0};  // one after the other, on whichever thread
    const auto follow = [&](anser::Pool::Member&) {
      for (long i; (i = next++) < kItems; ++reached)
        anser::Pool::await([&] { return reached == i; });
    };
    pool.run(follow, /*brief=*/false);
    if (reached != kItems) return false;
    const auto later = Clock::now() + microseconds(250 + random() % 250);
    while (Clock::now() < later) continue;
  }
  return right && steps == kRuns * kSteps;
}

}  // namespace

int main() {
  std::atomic<long> pools{0};
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  std::thread([&pools] {
    for (long seen = -1; seen != pools; std::this_thread::sleep_for(kStuck)) seen = pools;
    std::fputs("a thread of the pool was never woken\n", stderr);
    _exit(1);
  }).detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  std::signal(SIGALRM, interrupt);
  const itimerval every{{0, 1111}, {0, 1111}};
  setitimer(ITIMER_REAL, &every, nullptr);
  std::mt19937 random(1);
  for (const auto end = Clock::now() + kLong; Clock::now() < end; ++pools)
    if (!use(2 + pools % 2, random)) {
      std::fputs("an item or a step was not done, or done twice\n", stderr);
      _exit(1);
    }
  std::printf("%ld pools came to an end\n", pools.load());
  std::fflush(stdout);
  _exit(0);
}
