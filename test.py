"""Evaluate a snapshot, segment your own scans, and more: as `qnet test`, from a checkout. `python test.py --help` explains."""

from qnet.test import run

if __name__ == "__main__":
    run()
