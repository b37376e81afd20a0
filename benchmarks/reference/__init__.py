"""What the benchmarks compare with, and what they share."""
