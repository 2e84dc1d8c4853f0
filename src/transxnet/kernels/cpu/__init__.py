"""The operators' kernels for CPUs in C++, which are compiled when they are first used, and a fused stage of them."""
