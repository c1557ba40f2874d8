"""scripts/compare.py, whole, on made-up runs."""

import csv

import numpy as np
import pytest

from qnet.scripts.compare import PUBLISHED, main
from qnet.util.options.config import base_config, read_json5
from tests.runs import write_run


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "runs/q")
    write_run(tmp_path / "runs/a", shift=-0.05, model="adnet")
    return tmp_path / "runs"


def test_writes_every_format(runs, tmp_path, capsys):
    output = tmp_path / "out"
    assert main([str(runs), "--output", str(output)]) == 0
    text = capsys.readouterr().out
    written = {f"comparison.{ending}" for ending in ("txt", "csv", "md", "tex", "png")}
    assert {path.name for path in output.glob("[!.]*")} == written
    rows = {(row["method"], row["class"]): row for row in csv.DictReader((output / "comparison.csv").open(encoding="utf-8"))}
    # liver: supports' means 53 and 61 %; spleen: 69 and 77 %
    assert float(rows["QNet", "liver"]["mean_percent"]) == pytest.approx(57)
    assert float(rows["QNet", "liver"]["std_percent"]) == pytest.approx(np.std([53, 61], ddof=1), rel=1e-4)
    assert float(rows["QNet", "mean"]["mean_percent"]) == pytest.approx(65)
    assert rows["QNet", "mean"]["n_volumes"] == "16" and rows["QNet", "mean"]["n_supports"] == "2"
    # all differences have one sign: exact p of 2/2^8 for a class and 2/2^16 for all
    assert float(rows["ADNet", "liver"]["p_holm"]) == pytest.approx(2 / 2**8)
    assert float(rows["ADNet", "mean"]["p_holm"]) == pytest.approx(2 / 2**16, rel=1e-4)
    assert rows["QNet", "liver"]["p_holm"] == ""
    assert "57.00 ± 5.66" in text and "57.00 ± 5.66" in (output / "comparison.md").read_text(encoding="utf-8")
    latex = (output / "comparison.tex").read_text(encoding="utf-8")
    assert r"57.00 $\pm$ 5.66" in latex and r"$<$ 0.001" in latex and latex.count(r"\begin{tabular}") == 2
    assert (output / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_published_numbers_stand_beside_and_are_marked(runs, tmp_path, capsys):
    main([str(runs), "--output", str(tmp_path / "out")])
    lines = capsys.readouterr().out.splitlines()
    alpnet, qnet = (next(line for line in lines if line.startswith(f"{name}, published")) for name in ("SSL-ALPNet", "Q-Net"))
    assert alpnet.split()[-3:] == ["76.10", "72.18", "78.84"]           # liver, spleen, mean
    assert qnet.split()[-3:] == ["81.74?", "75.99?", "81.02?"]
    assert any("not confirmed at the source" in line for line in lines)


def test_published_numbers_only_where_they_belong(tmp_path, capsys):
    write_run(tmp_path / "ep2", protocol="ep2", n_part=1)
    write_run(tmp_path / "setting2", exclude_label=[1, 4])
    main([str(tmp_path / "ep2"), "--output", str(tmp_path / "out")])
    assert ", published" not in capsys.readouterr().out
    main([str(tmp_path / "setting2"), "--output", str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert "RPT, published †" in text and "Q-Net, published " in text and "68.59 " in text.replace("\n", " \n")


@pytest.mark.parametrize(("arguments", "message"), [
    (["--baseline", "UNet"], "--baseline: got 'UNet', allowed: 'none' or one of ['ADNet', 'QNet']"),
    (["extra"], "extra: no finished evaluation"),
])
def test_bad_input_is_one_line(runs, tmp_path, capsys, arguments, message):
    assert main([str(runs), *arguments, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_published_table_knows_the_datasets_classes_and_its_means():
    datasets = base_config()["datasets"]
    for name, entry in read_json5(PUBLISHED).items():
        assert set(entry["classes"]) <= set(datasets[name]["labels"].values())
        for papers in entry["settings"].values():
            for paper in papers:
                assert len(paper["dice"]) in (0, len(entry["classes"]))
                assert not paper["dice"] or np.mean(paper["dice"]) == pytest.approx(paper["mean"], abs=0.04)   # as quoted
