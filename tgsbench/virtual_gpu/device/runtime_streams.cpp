// The CUDA runtime's streams and events: who waits for whom is logged; nothing is ever pending.
#include "device.h"

#include <mutex>
#include <unordered_map>

using namespace vgpu;

namespace {

std::mutex& guard() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

std::unordered_map<const void*, int>& priorities() {
  static auto* known = new std::unordered_map<const void*, int>;
  return *known;
}

uint64_t number(const void* handle) { return reinterpret_cast<uint64_t>(handle); }

}  // namespace

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int priority) {
  *stream = static_cast<cudaStream_t>(new_handle());
  std::lock_guard<std::mutex> held(guard());
  priorities()[*stream] = priority;
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  std::lock_guard<std::mutex> held(guard());
  const auto found = priorities().find(stream);
  *priority = found == priorities().end() ? 0 : found->second;
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  log(kSynchronize, stream, "", 1);
  flush_log();
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  log(kSynchronize, nullptr, "", 0);
  flush_log();
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  log(kStreamWait, stream, "", number(event));
  return cudaSuccess;
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void* data, unsigned) {
  callback(stream, cudaSuccess, data);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t*, const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t*) {
  *status = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = static_cast<cudaEvent_t>(new_handle());
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  log(kEventRecord, stream, "", number(event));
  return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}

cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  log(kSynchronize, nullptr, "", 2, number(event));
  return cudaSuccess;
}

// Time passes in the log alone; a difference that is never 0 keeps rates finite.
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 1.0f;
  return cudaSuccess;
}
