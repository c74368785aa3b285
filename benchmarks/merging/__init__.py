"""The parts of benchmarks/merge_checkpoints.py."""
