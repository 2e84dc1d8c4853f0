"""Kernels of our own in C++, for CPUs; they are compiled when they are first used."""
