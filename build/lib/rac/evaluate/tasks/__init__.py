"""Our benchmarks, as lm-eval task files."""
