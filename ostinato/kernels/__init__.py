"""Kernels: Numba for CPUs, Triton for GPUs. An op works without them, through torch."""
