"""Score a snapshot on a test fold by the field's protocol.

    python test.py with chaost2_setting1 eval_fold=0 reload_model_path=runs/…/snapshots/30000.pth
    python test.py with chaost2_setting1 supp_idx=all reload_model_path=untrained

Options are explained in configs/base.json5. (Python's standard library has a package of this name too; nothing here
imports this file.)
"""

import shutil
from functools import partial

from dataloaders.datasets import DatasetSpec
from dataloaders.folds import share_of_queries, supports_and_queries
from dataloaders.volumes import read_spacing_mm
from models.base import FewShotModel
from util.base.device import resolve_device
from util.base.distributed import is_main, join, of_main, rank, world_size
from util.base.errors import InputError
from util.options.config import check_config
from util.predict.predictor import Predictor, as_trained, names_in, plan_queries, predict_all, read_supports
from util.results.report import write_report
from util.results.scores import (
    TABLE_HEADER,
    WHOLE,
    WHOLE_HEADER,
    row_order,
    save_prediction,
    save_whole,
    score_rows,
    summarise,
    table_rows,
    whole_score_rows,
    write_overviews,
    write_scores,
)
from util.run.experiment import (
    build_model,
    format_table,
    initialise,
    make_experiment,
    one_line_errors,
    open_dataset,
    plain,
    run_commandline,
    run_dir,
)
from util.run.provenance import record_start
from util.segment.protocol import Prediction, evaluate_fold, load_fold
from util.segment.slice_encoder import SliceEncoder
from util.segment.unfinished import FOLDER as UNFINISHED
from util.segment.unfinished import continued
from util.segment.whole_volume import WholePrediction, WholeVolumeOptions, evaluate_whole
from util.training.snapshots import load_model, read_snapshot

experiment = make_experiment("test")


@experiment.command
def predict(_config) -> None:
    """Segment scans of one's own from outlined ones: support_image, support_label, query, output in configs/base.json5."""
    with one_line_errors():
        if _config["reload_model_path"] is None:
            raise InputError("reload_model_path: got null, allowed: a snapshot of train.py")
        snapshot = read_snapshot(_config["reload_model_path"])
        config = as_trained(plain(_config), snapshot.config)
        check_config(config)
        device = resolve_device(config["device"], config["deterministic"])
        spec = DatasetSpec.from_config(config["dataset"], config["datasets"][config["dataset"]])
        supports = read_supports(spec, config)
        plan = plan_queries(config, names_in(supports, spec))
        model = build_model(config)
        load_model(model, snapshot)
        predictor = Predictor.from_config(model, spec, device, config, supports)
        del model, snapshot     # the predictor has its own copy of the weights
        failures = predict_all(predictor, plan, config)
    print(f"written to {config['output']}")
    if failures:
        raise SystemExit("\n".join(f"error: {line}" for line in failures))


@experiment.command
def report(_config) -> None:
    """Make report.html of a finished evaluation: tables, plots and a viewer of every case, in one file. Give run=<run folder>."""
    with one_line_errors():
        print(f"written: {write_report(_config['run'], _config['overwrite'])}")


@experiment.main
@one_line_errors()
def main(_run, _config) -> float | None:
    """Evaluate and return the mean Dice over classes. Of several processes each has its share of the query volumes."""
    config, folder = plain(_config), run_dir(_run)
    device = resolve_device(config["device"], config["deterministic"])
    spec, cases = open_dataset(config)
    pairs = supports_and_queries(len(cases), spec.n_folds, config["eval_fold"], config["protocol"], config["supp_idx"])
    model = build_model(config)
    print(load_weights(model, config))
    positions = sorted({position for support, queries in pairs for position in (support, *queries)})
    if is_main() and record_start(folder, device, [cases[position] for position in positions], config["reload_model_path"]):
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)      # it was made of something else
    of_main(None)       # the other processes wait for that
    volumes = dict(zip(positions, load_fold([cases[position] for position in positions], spec), strict=True))

    encoder = SliceEncoder(model, device, config["eval_batch_size"], keep_all=config["whole_volume"])
    del model       # the encoder has its own copy of the weights
    pairs = [(volumes[s], [volumes[q] for q in queries]) for s, queries in share_of_queries(pairs, rank(), world_size())]
    by_protocol = partial(evaluate_fold, encoder, labels=config["test_label"], n_part=config["n_part"],
                          every_slice=config["protocol"] == "ep2")
    predictions = []
    for prediction in continued(Prediction, by_protocol, pairs, folder / UNFINISHED / config["protocol"]):
        save_prediction(prediction, spec.labels[prediction.label], folder / "predictions")
        predictions.append(prediction)

    whole = []
    if config["whole_volume"]:
        whole_volumes = partial(evaluate_whole, encoder, labels=config["test_label"],
                                options=WholeVolumeOptions.from_config(config),
                                pixel_mm=read_spacing_mm(cases[positions[0]].image)[2])
        for prediction in continued(WholePrediction, whole_volumes, pairs, folder / UNFINISHED / WHOLE):
            save_whole(prediction, spec.labels[prediction.label], folder)
            whole.append(prediction)

    rows = sorted(join(score_rows(predictions, spec.labels, config["surface_tolerance_mm"])), key=row_order)
    whole_rows = sorted(join(whole_score_rows(whole, spec.labels, config["surface_tolerance_mm"])), key=row_order)
    predictions = join(predictions)
    if not is_main():
        return None
    if not rows:
        raise InputError(f"test_label: fold {config['eval_fold']} has no support and query that both hold a class of "
                         f"{config['test_label']}")
    summary = summarise(rows) | ({WHOLE: summarise(whole_rows)} if whole_rows else {})
    write_scores(rows, whole_rows, summary, folder)
    write_overviews(predictions, spec.labels, folder)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    print(f"\n{spec.name}, fold {config['eval_fold']}, {config['protocol']} protocol, "
          f"support {', '.join(summary['supports'])} (mean ± standard deviation over volumes; Dice, IoU, surface Dice in %)\n")
    print(format_table([*TABLE_HEADER, *([WHOLE_HEADER] if whole_rows else [])], table_rows(summary)))
    print(f"\nscores.csv, results.json, predictions/ and pictures: {folder}")
    return summary["mean"]["dice_mean"]


def load_weights(model: FewShotModel, config: dict) -> str:
    """Load the snapshot of `reload_model_path`, or with "untrained" what training would start from."""
    path = config["reload_model_path"]
    if path is None:
        raise InputError("reload_model_path: got null, allowed: a snapshot of train.py, or 'untrained'")
    if path == "untrained":
        return f"untrained network; {initialise(model, config)}"
    snapshot = read_snapshot(path)
    load_model(model, snapshot)
    return f"weights of {path}" + (f", step {snapshot.step}" if snapshot.step else "")


if __name__ == "__main__":
    run_commandline(experiment)
