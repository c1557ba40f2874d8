"""Run folders as evaluations leave them, made by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from qnet.util.options.config import base_config
from qnet.util.results.scores import METRICS, SCORE_COLUMNS, summarise, write_scores
from tests.toy import toy_case, write

CONFIG = {"dataset": "CHAOST2", "model": "qnet", "eval_fold": 0, "protocol": "published", "n_part": 3, "exclude_label": None,
          "exclude_rule": "any", "reload_model_path": "runs/1/snapshots/30000.pth"}
SUPPORTS, QUERIES = ("1", "2"), ("3", "5", "8", "10")


def write_run(folder: Path, shift: float = 0.0, labels: Sequence[str] = ("liver", "spleen"),
              supports: Sequence[str] = SUPPORTS, **changes: object) -> Path:
    """Write what scripts/compare.py reads: a finished run with made-up scores.

    `shift` moves all scores, each by a little more than the one before.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
    with (folder / "scores.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label_name", "label", "support_case", "query_case", "dice", "iou"])
        for k, (label, support, query) in enumerate((a, b, c) for a in labels for b in supports for c in QUERIES):
            dice = 0.5 + 0.02 * k + shift * (1 + 0.1 * k)
            writer.writerow([label, 1, support, query, dice, dice / (2 - dice)])
    return folder


def write_evaluation(folder: Path, data_dir: Path) -> Path:
    """Write what test.py report reads, with one prediction: that of the query 2 from the support 1."""
    folder.mkdir()
    rows = [{"label_name": "liver", "label": 1, "support_case": "1", "query_case": "2", **dict.fromkeys(METRICS, 0.5)}]
    assert set(rows[0]) == set(SCORE_COLUMNS)
    write_scores(rows, [], summarise(rows), folder)
    config = base_config()
    config["path"]["CHAOST2"]["data_dir"] = str(data_dir)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    write(folder / "predictions/2_liver_supp1.nii.gz", toy_case(2)[1])
    return folder
