"""The kernels for CUDA devices, in Triton, which is imported with each module of kernels and not before."""
