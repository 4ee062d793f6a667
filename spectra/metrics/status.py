"""What became of a matrix: the words that a row's `status` can be."""

OK, ZERO, ZERO_BASE, NONFINITE, FAILED, OOM = "ok", "zero_update", "zero_base", "nonfinite", "failed", "oom"
FAILURES = (NONFINITE, FAILED, OOM)
