// cuBLAS and cuBLASLt: a product is a record with its m, n, k; the answers are as if it had been computed.
#include "device.h"

#include <cstring>
#include <string>

#include "no_halves.h"

#pragma GCC visibility push(default)
#include <cublasLt.h>
#include <cublas_v2.h>
#pragma GCC visibility pop

namespace {

struct Handle {
  cudaStream_t stream;
  cublasMath_t math;
  cublasPointerMode_t pointers;
};

Handle* own(cublasHandle_t handle) { return reinterpret_cast<Handle*>(handle); }

std::string type_name(cudaDataType type) {
  switch (type) {
    case CUDA_R_16BF: return "bf16";
    case CUDA_R_16F: return "fp16";
    case CUDA_R_32F: return "fp32";
    case CUDA_R_64F: return "fp64";
    case CUDA_R_8F_E4M3:
    case CUDA_R_8F_E5M2: return "fp8";
    default: return "type " + std::to_string(static_cast<int>(type));
  }
}

cublasStatus_t product(const void* stream, cudaDataType type, double m, double n, double k, double batch) {
  vgpu::log(vgpu::kGemm, stream, "gemm " + type_name(type), static_cast<uint64_t>(m), static_cast<uint64_t>(n),
            static_cast<uint64_t>(k), static_cast<uint64_t>(batch));
  return CUBLAS_STATUS_SUCCESS;
}

// What lies in cuBLASLt's opaque layouts here.
struct Layout {
  uint64_t rows, columns, batch, type;
};
static_assert(sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "a layout must fit the opaque one");

const Layout& seen(cublasLtMatrixLayout_t layout) { return *reinterpret_cast<const Layout*>(layout); }

}  // namespace

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  *handle = reinterpret_cast<cublasHandle_t>(new Handle{nullptr, CUBLAS_DEFAULT_MATH, CUBLAS_POINTER_MODE_HOST});
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  delete own(handle);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  own(handle)->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void*, size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetSmCountTarget(cublasHandle_t, int) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  own(handle)->math = mode;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
  *mode = own(handle)->math;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
  own(handle)->pointers = mode;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t* mode) {
  *mode = own(handle)->pointers;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m, int n, int k,
                            const void*, const void*, cudaDataType type, int, const void*, cudaDataType, int,
                            const void*, void*, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t) {
  return product(own(handle)->stream, type, m, n, k, 1);
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m, int n,
                                          int k, const void*, const void*, cudaDataType type, int, long long int,
                                          const void*, cudaDataType, int, long long int, const void*, void*,
                                          cudaDataType, int, long long int, int batch, cublasComputeType_t,
                                          cublasGemmAlgo_t) {
  return product(own(handle)->stream, type, m, n, k, batch);
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m, int n, int k,
                              const float*, const float*, int, const float*, int, const float*, float*, int) {
  return product(own(handle)->stream, CUDA_R_32F, m, n, k, 1);
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m, int n,
                                         int k, const float*, const float*, int, long long int, const float*, int,
                                         long long int, const float*, float*, int, long long int, int batch) {
  return product(own(handle)->stream, CUDA_R_32F, m, n, k, batch);
}

cublasStatus_t cublasSgemmBatched(cublasHandle_t handle, cublasOperation_t, cublasOperation_t, int m, int n, int k,
                                  const float*, const float* const[], int, const float* const[], int, const float*,
                                  float* const[], int, int batch) {
  return product(own(handle)->stream, CUDA_R_32F, m, n, k, batch);
}

cublasStatus_t cublasSgemv_v2(cublasHandle_t handle, cublasOperation_t, int m, int n, const float*, const float*,
                              int, const float*, int, const float*, float*, int) {
  return product(own(handle)->stream, CUDA_R_32F, m, 1, n, 1);
}

size_t cublasLtGetVersion() { return CUBLAS_VERSION; }

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t) {
  *layout = new cublasLtMatrixLayoutOpaque_t{};
  const Layout known{rows, columns, 1, static_cast<uint64_t>(type)};
  memcpy(*layout, &known, sizeof known);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t what,
                                                const void* value, size_t bytes) {
  if (what == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT && bytes >= sizeof(int32_t)) {
    int32_t batch;
    memcpy(&batch, value, sizeof batch);
    reinterpret_cast<Layout*>(layout)->batch = static_cast<uint64_t>(batch);
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t, cudaDataType) {
  *description = new cublasLtMatmulDescOpaque_t{};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete description;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void*,
                                              size_t) {
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t{};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
                                                    const void*, size_t) {
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int* found) {
  *found = requested > 0;
  if (*found) {
    memset(&results[0], 0, sizeof results[0]);
    results[0].state = CUBLAS_STATUS_SUCCESS;
    results[0].wavesCount = 1.0f;
  }
  return CUBLAS_STATUS_SUCCESS;
}

// D (m x n) = A · B: A holds m · k values, transposed or not.
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t, const void*, const void*,
                              cublasLtMatrixLayout_t a, const void*, cublasLtMatrixLayout_t, const void*,
                              const void*, cublasLtMatrixLayout_t, void*, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t stream) {
  const Layout &left = seen(a), &result = seen(d);
  const uint64_t k = result.rows ? left.rows * left.columns / result.rows : 0;
  return product(stream, static_cast<cudaDataType>(left.type), static_cast<double>(result.rows),
                 static_cast<double>(result.columns), static_cast<double>(k), static_cast<double>(result.batch));
}
