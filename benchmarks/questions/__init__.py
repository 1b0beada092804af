"""The questions of the benchmarks, each with its measurements."""
