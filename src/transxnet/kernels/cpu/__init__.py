"""The operators' kernels for CPUs in C++, compiled beforehand or when they are first used, and a fused stage of them."""
