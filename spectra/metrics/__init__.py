"""What is measured: one concept a file, pure functions, one frozen record each."""
