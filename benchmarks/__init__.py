"""What the harness costs, measured: `python -m benchmarks`. Timings live here and not in the tests."""
