"""The parts of scripts/checks/benchmark.py."""
