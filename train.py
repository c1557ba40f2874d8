"""Train a method: as `qnet train`, from a checkout. `python train.py --help` explains."""

from qnet.train import run

if __name__ == "__main__":
    run()
