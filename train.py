"""Train a method on the supervoxels (or superpixels) of the cases outside the test fold.

    python train.py with chaost2_setting1 eval_fold=0
    python train.py with chaost2_setting1 adnet           # or alpnet, panet
    python train.py print_config with cmr_setting1        # every option and its value

Options are explained in configs/base.json5; the other files of configs/ are the experiments that `with` names.
"""

from pathlib import Path

from dataloaders.episodes import EpisodeDataset, load_training_volumes
from dataloaders.folds import fold_positions
from util.base.device import resolve_device
from util.base.distributed import is_main, of_main, world_size
from util.base.errors import InputError
from util.base.guard import lies_in
from util.results.figures import loss_curve
from util.run.experiment import (
    build_model,
    initialise,
    make_experiment,
    one_line_errors,
    open_dataset,
    plain,
    run_commandline,
    run_dir,
)
from util.run.provenance import FILE as PROVENANCE
from util.run.provenance import record_start
from util.run.resume import snapshot_to_resume
from util.training.loop import train
from util.training.snapshots import load_model, read_snapshot

experiment = make_experiment("train")


@experiment.main
@one_line_errors()
def main(_run, _config) -> float:
    """Train and return the mean total loss of the last 100 steps."""
    config, folder = plain(_config), run_dir(_run)
    device = resolve_device(config["device"], config["deterministic"])
    spec, cases = open_dataset(config)
    held_out = fold_positions(len(cases), spec.n_folds, config["eval_fold"])
    if config["reload_model_path"] is not None and lies_in(Path(config["reload_model_path"]), folder):
        raise InputError(f"reload_model_path: {config['reload_model_path']} lies in {folder}, which this run writes to; "
                         "allowed: a copy of it elsewhere, or resume=never")
    resume_from = snapshot_to_resume(config, folder)
    model = build_model(config)
    if resume_from is not None:
        print(f"going on from step {resume_from.step}: {resume_from.path}")
    elif config["reload_model_path"] is not None:
        load_model(model, read_snapshot(config["reload_model_path"]))
        print(f"starting from the weights of {config['reload_model_path']}")
    else:
        print(initialise(model, config))
    training_cases = [case for position, case in enumerate(cases) if position not in held_out]
    changed = of_main(record_start(folder, device, training_cases, config["reload_model_path"]) if is_main() else None)
    if resume_from is not None and changed:
        print(f"warning: {', '.join(changed)} changed since this run was last started ({PROVENANCE}); "
              "its results need not be those of an undisturbed run")
    volumes = load_training_volumes(
        training_cases, spec,
        exclude_label=config["exclude_label"], exclude_rule=config["exclude_rule"], use_gt=config["use_gt"],
        test_label=config["test_label"], pseudo_labels=config["pseudo_labels"])
    episodes = EpisodeDataset(volumes, config["n_steps"] * config["batch_size"] * world_size(), config["seed"],
                              config["n_shot"], config["min_size"],
                              same_slice=config["pseudo_labels"] == "superpixels" and not config["use_gt"])
    print(f"{len(episodes.volumes)} training volumes of {spec.name}, fold {config['eval_fold']} held out, on {device}"
          f"{f', {world_size()} processes' if world_size() > 1 else ''}; run folder {folder}")
    history = train(model, episodes, config, device=device, snapshot_dir=folder / "snapshots", log_scalar=_run.log_scalar,
                    resume_from=resume_from)
    if is_main():
        loss_curve(history, folder / "loss_curve.png")
    print(f"snapshots and loss_curve.png: {folder}")
    return history[-100:].sum(dim=1).nanmean().item()


if __name__ == "__main__":
    run_commandline(experiment)
