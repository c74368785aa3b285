"""Parts of benchmarks/kernels.py and benchmarks/train_step.py."""
