// Runs kernels by name for the tests: commands on standard input, answers on standard output, both binary.
//
// A n        -> address of n new bytes (0 for none)      W address n bytes   -> nothing
// R address n -> n bytes                                 F address           -> nothing
// L name grid[3] block[3] cluster shared order n_args (n_words words[])[] -> length of an error message and the message, 0 when done
// Numbers are 64-bit words in the order of the machine.
#include "kernels.inc"  // the kernels' sources; KERNELS, their names

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace shim {

Dim3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr std::size_t STACK_BYTES = 128 * 1024;
constexpr unsigned MOST = 8 * 1024;  // threads of a cluster
enum class State { Ready, AtBarrier, AtCluster, AtShuffle, Done };

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};  // touched only where it is used
    State state;
    unsigned shuffles;
};

std::vector<Fiber> fibers(MOST);
ucontext_t scheduler;
unsigned current;
std::uint64_t lanes[2][MOST];
double operands[2][MOST][6];
std::vector<unsigned char*> shared;  // of each block of the cluster
unsigned threads_of_block;
const std::function<void()>* body;

void start() {
    (*body)();
    fibers[current].state = State::Done;
}

void yield(State state) {
    Fiber& fiber = fibers[current];
    fiber.state = state;
    swapcontext(&fiber.context, &scheduler);
}

// Lets all of first..last go on if all of them wait at the same place.
bool release(unsigned first, unsigned last, State state) {
    unsigned waiting = 0;
    for (unsigned t = first; t < last; t++) waiting += fibers[t].state == state;
    if (waiting != last - first) return false;
    for (unsigned t = first; t < last; t++) fibers[t].state = State::Ready;
    return true;
}

// Runs the blocks of a cluster at the same time; `blocks` are their indices.
void run_blocks(const std::vector<Dim3>& blocks, unsigned n_threads_each, bool falling) {
    const unsigned n_threads = unsigned(blocks.size()) * n_threads_each;
    threads_of_block = n_threads_each;
    for (unsigned t = 0; t < n_threads; t++) {
        Fiber& fiber = fibers[t];
        fiber.state = State::Ready;
        fiber.shuffles = 0;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK_BYTES;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, start, 0);
    }
    for (;;) {
        bool all_done = true;
        for (unsigned k = 0; k < n_threads; k += 32) {
            const unsigned first = falling ? n_threads - 32 - k : k;
            // A warp runs to the block's next barrier before another one starts: as far ahead as it may get on a device.
            do {
                for (unsigned l = 0; l < 32; l++) {
                    const unsigned t = falling ? first + 31 - l : first + l;
                    if (fibers[t].state != State::Ready) continue;
                    current = t;
                    thread_index = {t % n_threads_each, 0, 0};
                    block_index = blocks[t / n_threads_each];
                    swapcontext(&scheduler, &fibers[t].context);
                }
            } while (release(first, first + 32, State::AtShuffle));
            for (unsigned t = first; t < first + 32; t++) all_done = all_done && fibers[t].state == State::Done;
        }
        if (all_done) return;
        bool released = release(0, n_threads, State::AtCluster);
        for (unsigned k = 0; k < blocks.size(); k++) {
            released = release(k * n_threads_each, (k + 1) * n_threads_each, State::AtBarrier) || released;
        }
        if (!released) throw std::runtime_error("a barrier or a shuffle was not reached by all threads");
    }
}

}  // namespace

void* dynamic_shared() { return shared[current / threads_of_block]; }
void wait_for_block() { yield(State::AtBarrier); }
void wait_for_cluster() { yield(State::AtCluster); }
void* in_block(void* at, unsigned block) {
    return shared[block] + (static_cast<unsigned char*>(at) - shared[current / threads_of_block]);
}

std::uint64_t exchange(std::uint64_t value, unsigned lane) {
    // Two sets of slots in turn: nobody writes a slot that another lane has yet to read.
    auto& slots = lanes[fibers[current].shuffles++ % 2];
    slots[current] = value;
    const unsigned from = current / 32 * 32 + lane;
    yield(State::AtShuffle);
    return slots[from];
}

const double (*exchange_operands(const double (&own)[6]))[6] {
    auto& slots = operands[fibers[current].shuffles++ % 2];
    std::copy(own, own + 6, slots[current]);
    yield(State::AtShuffle);
    return slots + current / 32 * 32;
}

}  // namespace shim

namespace {

using Words = std::vector<std::vector<std::uint64_t>>;  // of each argument
struct Kernel {
    std::vector<std::size_t> sizes;  // of the arguments, in words
    std::function<void(const Words&)> call;
};

template <typename P>
P argument(const std::vector<std::uint64_t>& words) {
    P value;
    std::memcpy(&value, words.data(), sizeof(P));
    return value;
}

template <typename... P, std::size_t... I>
Kernel unpack(void (*kernel)(P...), std::index_sequence<I...>) {
    return {{(sizeof(P) + 7) / 8 ...}, [kernel](const Words& args) { kernel(argument<P>(args[I])...); }};
}

template <typename... P>
Kernel make(void (*kernel)(P...)) {
    return unpack(kernel, std::index_sequence_for<P...>());
}

void read(void* to, std::size_t n) {
    if (n != 0 && std::fread(to, 1, n, stdin) != n) std::exit(2);
}

std::uint64_t word() {
    std::uint64_t value;
    read(&value, sizeof(value));
    return value;
}

void write(const void* from, std::size_t n) {
    if (n != 0 && std::fwrite(from, 1, n, stdout) != n) std::exit(2);
    std::fflush(stdout);
}

std::string launch(const std::map<std::string, Kernel>& kernels) {
    std::string name(word(), ' ');
    read(&name[0], name.size());
    const auto size = [] {
        shim::Dim3 d;
        d.x = unsigned(word()), d.y = unsigned(word()), d.z = unsigned(word());
        return d;
    };
    shim::grid_size = size();
    shim::block_size = size();
    const unsigned cluster = unsigned(word());
    const std::size_t shared_bytes = word();
    const bool falling = word() != 0;
    Words args(word());
    for (auto& arg : args) {
        arg.resize(word());
        for (auto& w : arg) w = word();
    }

    const auto kernel = kernels.find(name);
    if (kernel == kernels.end()) return "there is no kernel " + name;
    if (kernel->second.sizes.size() != args.size()) return name + " has another number of arguments";
    for (std::size_t k = 0; k < args.size(); k++) {
        if (kernel->second.sizes[k] != args[k].size()) return name + ": argument " + std::to_string(k) + " has another size";
    }
    const shim::Dim3 grid = shim::grid_size, block = shim::block_size;
    if (block.x % 32 != 0 || block.x == 0 || block.x > 1024 || block.y * block.z != 1) return name + ": bad block";
    if (cluster == 0 || cluster > 8 || grid.x % cluster != 0) return name + ": bad cluster";
    if (grid.x * grid.y * grid.z == 0 || grid.y > 65535 || grid.z > 65535) return name + ": bad grid";
    const std::function<void()> body = [&] { kernel->second.call(args); };
    shim::body = &body;
    // Exactly as large as the launch says, and full of NaN: a kernel that reads what it has not written shows it.
    shim::shared.clear();
    for (unsigned k = 0; k < cluster; k++) {
        shim::shared.push_back(static_cast<unsigned char*>(std::aligned_alloc(16, (shared_bytes + 15) / 16 * 16)));
    }
    std::string error;
    const unsigned n_blocks = grid.x * grid.y * grid.z;
    for (unsigned k = 0; k < n_blocks / cluster && error.empty(); k++) {
        const unsigned first = (falling ? n_blocks / cluster - 1 - k : k) * cluster;
        std::vector<shim::Dim3> blocks;
        for (unsigned b = first; b < first + cluster; b++) {
            blocks.push_back({b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y});
            std::memset(shim::shared[b - first], 0xff, shared_bytes);
        }
        try {
            shim::run_blocks(blocks, block.x, falling);
        } catch (const std::runtime_error& e) {
            error = name + ": " + e.what();
        }
    }
    for (unsigned char* of_block : shim::shared) std::free(of_block);
    return error;
}

}  // namespace

int main() {
#define KERNEL(name) {#name, make(name)},
    const std::map<std::string, Kernel> kernels = {KERNELS};
    for (int command; (command = std::getchar()) != EOF;) {
        if (command == 'A') {
            const std::size_t n = word();
            const std::uint64_t address = n == 0 ? 0 : reinterpret_cast<std::uint64_t>(std::malloc(n));
            write(&address, sizeof(address));
        } else if (command == 'L') {
            const std::string error = launch(kernels);
            const std::uint64_t length = error.size();
            write(&length, sizeof(length));
            write(error.data(), error.size());
        } else {
            void* address = reinterpret_cast<void*>(word());
            if (command == 'F') {
                std::free(address);
                continue;
            }
            const std::size_t n = word();
            if (command == 'W') read(address, n);
            if (command == 'R') write(address, n);
        }
    }
    return 0;
}
