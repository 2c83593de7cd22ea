"""Benchmarks of speed: our work and that of other libraries, side by side in one run."""
