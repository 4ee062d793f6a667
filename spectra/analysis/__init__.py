"""Stream pairs through engine and metrics into rows, a summary and findings."""
