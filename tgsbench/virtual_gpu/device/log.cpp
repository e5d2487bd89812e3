// The log: fixed records in one file a rank, and the names that they refer to by number.
#include "device.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <mutex>
#include <unistd.h>
#include <unordered_map>
#include <vector>

namespace vgpu {
namespace {

constexpr size_t kBuffered = 512;
constexpr size_t kLongestName = 4096;

std::mutex& guard() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

uint64_t now(clockid_t clock) {
  timespec at;
  clock_gettime(clock, &at);
  return static_cast<uint64_t>(at.tv_sec) * 1000000000ull + static_cast<uint64_t>(at.tv_nsec);
}

uint16_t thread_number() {
  static uint16_t next = 0;  // under the guard
  static thread_local uint16_t number = ++next;
  return number;
}

class File {
 public:
  void append(const Record& record) {
    buffer_.push_back(record);
    if (buffer_.size() >= kBuffered) write_out();
  }

  void write_out() {
    if (buffer_.empty() || !open_file()) return;
    const char* begin = reinterpret_cast<const char*>(buffer_.data());
    size_t left = buffer_.size() * sizeof(Record);
    while (left) {
      const ssize_t written = write(file_, begin, left);
      if (written <= 0) break;
      begin += written;
      left -= static_cast<size_t>(written);
    }
    buffer_.clear();
  }

  // The number of a name; the first time it is written down.
  uint32_t number_of(const std::string& name) {
    auto [place, is_new] = numbers_.try_emplace(name, static_cast<uint32_t>(numbers_.size() + 1));
    if (is_new) append_name(place->second, name.substr(0, kLongestName));
    return place->second;
  }

 private:
  bool open_file() {
    if (file_ >= 0) return true;
    const char* rank = getenv("RANK");
    char path[4096];
    snprintf(path, sizeof path, "%s/rank%05d.vgpu", spec().log_folder.c_str(), rank ? atoi(rank) : 0);
    file_ = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file_ < 0) buffer_.clear();
    return file_ >= 0;
  }

  void append_name(uint32_t number, const std::string& name) {
    Record head{};
    head.kind = kName;
    head.args[0] = number;
    head.args[1] = name.size();
    append(head);
    for (size_t at = 0; at < name.size(); at += sizeof(Record)) {
      Record piece{};
      memcpy(&piece, name.data() + at, std::min(sizeof(Record), name.size() - at));
      append(piece);
    }
  }

  int file_ = -1;
  std::vector<Record> buffer_;
  std::unordered_map<std::string, uint32_t> numbers_;
};

File& file() {
  static auto* known = new File;
  return *known;
}

__attribute__((destructor)) void write_at_exit() { flush_log(); }

}  // namespace

void log(Kind kind, const void* stream, const std::string& name, uint64_t a, uint64_t b, uint64_t c,
         uint64_t d) {
  if (spec().log_folder.empty()) return;
  std::lock_guard<std::mutex> held(guard());
  Record record{};
  record.kind = kind;
  record.device = static_cast<uint8_t>(current_device());
  record.thread = thread_number();
  record.name = name.empty() ? 0 : file().number_of(name);
  record.t_ns = now(CLOCK_MONOTONIC);
  record.cpu_ns = now(CLOCK_PROCESS_CPUTIME_ID);
  record.stream = reinterpret_cast<uint64_t>(stream);
  record.args[0] = a;
  record.args[1] = b;
  record.args[2] = c;
  record.args[3] = d;
  file().append(record);
}

void flush_log() {
  std::lock_guard<std::mutex> held(guard());
  file().write_out();
}

void unknown_call(const char* name) {
  log(kUnknown, nullptr, name);
  flush_log();
}

}  // namespace vgpu
