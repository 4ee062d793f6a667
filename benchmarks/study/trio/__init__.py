"""The small models that the package ships, chosen from a plan's runs: `python -m benchmarks.study --ship FOLDER`."""
