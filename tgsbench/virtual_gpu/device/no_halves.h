// Include before the headers of cuBLAS and NCCL: their half types need a C++ library of CUDA that the wheels
// do not bring, and are only named here.
#pragma once

#define __CUDA_FP16_H__
#define __CUDA_BF16_H__
#define __CUDA_FP8_H__

struct __half;
struct __nv_bfloat16;
