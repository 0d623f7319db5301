"""Plumbing of the benchmarks: timing, options, processes, peers, and the workers that measure."""
