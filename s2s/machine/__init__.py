"""The processor and its memory: allocator, C kernels, matrix products, worker processes."""
