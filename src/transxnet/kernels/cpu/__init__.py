"""The operators' kernels for CPUs in C++, compiled beforehand or when first used, and a fused stage of them."""
