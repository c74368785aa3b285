// Work split over a few threads that live for one call. Not included by what is compiled per instruction set.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace spikemesh {

// Calls work(item, worker) for every item in 0..num_items-1; `worker` in 0..num_threads-1 names the thread. Which thread
// takes which item is left to chance, so a result may depend on the item alone.
template <class Work>
void for_each(int64_t num_items, int num_threads, const Work& work) {
    std::atomic<int64_t> next{0};
    const auto take = [&](int worker) {
        for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < num_items;) work(item, worker);
    };
    std::vector<std::thread> threads;
    try {
        for (int worker = 1; worker < num_threads && worker < num_items; ++worker) threads.emplace_back(take, worker);
    } catch (const std::system_error&) {
        // No more threads to be had: those that there are do the work.
    }
    take(0);
    for (std::thread& thread : threads) thread.join();
}

// `size` elements for each of some workers, on cache lines of their own.
template <class T>
class Scratch {
  public:
    Scratch(int64_t size, int num_workers)
        : size_((size + 15) / 16 * 16),
          data_(static_cast<T*>(::operator new(static_cast<size_t>(size_ * num_workers) * sizeof(T), kLine))) {}
    T* of(int worker) const { return data_.get() + worker * size_; }

  private:
    static constexpr std::align_val_t kLine{64};
    struct Free {
        void operator()(T* data) const { ::operator delete(data, kLine); }
    };
    int64_t size_;
    std::unique_ptr<T, Free> data_;
};

}  // namespace spikemesh
