// NCCL: a collective is a record with its bytes; every peer is taken to have sent what this rank sends.
#include "device.h"
#include "groups.h"

#include <cstring>
#include <vector>

#include "no_halves.h"

#pragma GCC visibility push(default)
#include <nccl.h>
#pragma GCC visibility pop

using vgpu::log;
using vgpu::move_bytes;

struct ncclComm {
  int ranks;
  int rank;
};

namespace {

struct Message {
  const void* buffer;
  size_t bytes;
  int peer;
};

thread_local int group_depth = 0;
thread_local uint64_t group_call = 0;
thread_local std::vector<Message> sends, receives;

uint64_t number(const void* handle) { return reinterpret_cast<uint64_t>(handle); }

size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8: return 1;
    case ncclFloat16:
    case ncclBfloat16: return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32: return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64: return 8;
    default: return 1;  // the 8-bit floats
  }
}

ncclResult_t collective(const char* name, size_t bytes, ncclComm_t comm, cudaStream_t stream, int peer = -1) {
  const uint64_t call = group_depth ? group_call : ++group_call;
  log(vgpu::kCollective, stream, name, bytes, number(comm), call, static_cast<uint64_t>(peer + 1));
  return ncclSuccess;
}

ncclResult_t create(ncclComm_t* comm, int ranks, int rank, const void* parent) {
  *comm = new ncclComm{ranks, rank};
  log(vgpu::kCommunicator, nullptr, "", number(*comm), static_cast<uint64_t>(ranks), static_cast<uint64_t>(rank),
      number(parent));
  return ncclSuccess;
}

char* slot(void* buffer, size_t bytes, int index) { return static_cast<char*>(buffer) + bytes * static_cast<size_t>(index); }

const char* slot(const void* buffer, size_t bytes, int index) {
  return static_cast<const char*>(buffer) + bytes * static_cast<size_t>(index);
}

// What comes from a peer is what went to it.
void deliver() {
  for (const Message& received : receives) {
    for (const Message& sent : sends) {
      if (sent.peer != received.peer || sent.bytes != received.bytes) continue;
      move_bytes(const_cast<void*>(received.buffer), sent.buffer, sent.bytes);
      break;
    }
  }
  sends.clear();
  receives.clear();
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  memset(id, 7, sizeof *id);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId, int rank) {
  return create(comm, ranks, rank, nullptr);
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId, int rank, ncclConfig_t*) {
  return create(comm, ranks, rank, nullptr);
}

ncclResult_t ncclCommInitRankScalable(ncclComm_t* comm, int ranks, int rank, int, ncclUniqueId*, ncclConfig_t*) {
  return create(comm, ranks, rank, nullptr);
}

ncclResult_t ncclCommSplit(ncclComm_t parent, int color, int key, ncclComm_t* comm, ncclConfig_t*) {
  if (color == NCCL_SPLIT_NOCOLOR) {
    *comm = nullptr;
    return ncclSuccess;
  }
  const int ranks = vgpu::ranks_of_split(color, key, parent->ranks, parent->rank);
  if (!ranks) vgpu::unknown_call("ncclCommSplit into a group that is no dimension of the mesh");
  return create(comm, ranks ? ranks : parent->ranks, key, parent);
}

ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) { return ncclCommDestroy(comm); }

ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) {
  *count = comm->ranks;
  return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
  *rank = comm->rank;
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* error) {
  *error = ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclCommRegister(const ncclComm_t, void*, size_t, void** handle) {
  *handle = vgpu::new_handle();
  return ncclSuccess;
}

ncclResult_t ncclCommDeregister(const ncclComm_t, void*) { return ncclSuccess; }

const char* ncclGetErrorString(ncclResult_t error) {
  return error == ncclSuccess ? "no error" : "error of the virtual NCCL";
}

const char* ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t* op, void*, ncclDataType_t, ncclScalarResidence_t, ncclComm_t) {
  *op = ncclSum;
  return ncclSuccess;
}

ncclResult_t ncclRedOpDestroy(ncclRedOp_t, ncclComm_t) { return ncclSuccess; }

ncclResult_t ncclGroupStart() {
  if (group_depth++ == 0) ++group_call;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (--group_depth == 0) deliver();
  return ncclSuccess;
}

ncclResult_t ncclAllGather(const void* send, void* receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  for (int peer = 0; peer < comm->ranks; peer++) move_bytes(slot(receive, bytes, peer), send, bytes);
  return collective("all_gather", bytes, comm, stream);
}

ncclResult_t ncclReduceScatter(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t,
                               ncclComm_t comm, cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  move_bytes(receive, slot(send, bytes, comm->rank), bytes);
  return collective("reduce_scatter", bytes * static_cast<size_t>(comm->ranks), comm, stream);
}

ncclResult_t ncclAllReduce(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t,
                           ncclComm_t comm, cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  move_bytes(receive, send, bytes);
  return collective("all_reduce", bytes, comm, stream);
}

ncclResult_t ncclReduce(const void* send, void* receive, size_t count, ncclDataType_t type, ncclRedOp_t, int root,
                        ncclComm_t comm, cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  if (root == comm->rank) move_bytes(receive, send, bytes);
  return collective("reduce", bytes, comm, stream, root);
}

ncclResult_t ncclBroadcast(const void* send, void* receive, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  if (root == comm->rank) move_bytes(receive, send, bytes);
  return collective("broadcast", bytes, comm, stream, root);
}

ncclResult_t ncclBcast(void* buffer, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                       cudaStream_t stream) {
  return ncclBroadcast(buffer, buffer, count, type, root, comm, stream);
}

ncclResult_t ncclAlltoAll(const void* send, void* receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                          cudaStream_t stream) {
  const size_t bytes = count * size_of(type) * static_cast<size_t>(comm->ranks);
  move_bytes(receive, send, bytes);
  return collective("all_to_all", bytes, comm, stream);
}

ncclResult_t ncclSend(const void* buffer, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  if (group_depth) sends.push_back({buffer, bytes, peer});
  return collective("send", bytes, comm, stream, peer);
}

ncclResult_t ncclRecv(void* buffer, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  const size_t bytes = count * size_of(type);
  if (group_depth) receives.push_back({buffer, bytes, peer});
  return collective("receive", bytes, comm, stream, peer);
}
