"""What the harness costs, measured: `python -m scripts.benchmarks`. Timings live here and not in the tests."""
