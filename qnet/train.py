"""Train a method on the supervoxels (or superpixels) of the cases outside the test fold.

    qnet train chaost2_setting1 eval_fold=0
    qnet train chaost2_setting1 adnet                 # or alpnet, panet
    qnet train my_own.json5                           # as `qnet prepare nifti` prints one
    qnet train print_config with cmr_setting1         # every option and its value

The data set is prepared before (`qnet prepare`). The run folder, with snapshots, goes into `runs`, where the command is given.
The same command again goes on where a training was stopped. The words in front are named configs or files of options.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qnet.dataloaders.datasets import Case
from qnet.dataloaders.episodes import EpisodeDataset, load_training_volumes
from qnet.dataloaders.folds import fold_positions
from qnet.dataloaders.stacks import StackDataset
from qnet.dataloaders.store import FOLDER as STORE
from qnet.dataloaders.store import Store
from qnet.models.base import FewShotModel
from qnet.util.base.device import resolve_device
from qnet.util.base.distributed import is_main, of_main, world_size
from qnet.util.base.errors import InputError
from qnet.util.base.guard import lies_in
from qnet.util.options.names import MODELS, UNTRAINED_MODELS
from qnet.util.options.record import Record
from qnet.util.options.sections import DataOptions, EpisodeOptions, ModelOptions, RunOptions, TrainOptions
from qnet.util.results.figures import loss_curve
from qnet.util.run.experiment import Help, Run, make_experiment, one_line_errors, plain, run_commandline, run_dir
from qnet.util.run.provenance import FILE as PROVENANCE
from qnet.util.run.provenance import record_start
from qnet.util.run.resume import snapshot_to_resume
from qnet.util.training.building import build_model, initialise
from qnet.util.training.loop import train
from qnet.util.training.snapshots import Snapshot, load_model, read_snapshot

experiment = make_experiment("train", {"main": Help(__doc__, ("dataset", "eval_fold", "n_steps", "seed", "device", "resume"))})


@experiment.main
@one_line_errors()
def main(_run: Run, _config: Mapping[str, Any]) -> float:
    """Train, and return the mean total loss of the last 100 steps. Refused steps are left out."""
    config, folder = plain(_config), run_dir(_run)
    run, record = RunOptions.of(config), Record(config)
    device = resolve_device(run.device)
    data, options = DataOptions.of(config), TrainOptions.of(config)
    cases = training_cases(data)
    expect_elsewhere(run.reload_model_path, folder)
    resume_from = snapshot_to_resume(record, run, folder)
    model = starting_model(ModelOptions.of(config), resume_from, run.reload_model_path)
    kept_in = run.place.log_dir / STORE
    changed = of_main(record_start(folder, device, run.precision, cases, run.reload_model_path, Store(kept_in).sums)
                      if is_main() else None)
    if resume_from is not None and changed:
        print(f"warning: {', '.join(changed)} changed since this run was last started ({PROVENANCE}); "
              "its results need not be those of an undisturbed run")
    episodes = training_episodes(cases, data, EpisodeOptions.of(config), options, kept_in,
                                 in_3d=model.reads_stacks)
    print(f"{len(episodes.volumes)} training volumes of {data.spec.name}, fold {data.eval_fold} held out, on {device} "
          f"in {run.precision}{f', {world_size()} processes' if world_size() > 1 else ''}; run folder {folder}")
    history = train(model, episodes, options, device=device, record=record, snapshot_dir=folder / "snapshots",
                    log_scalar=_run.log_scalar, resume_from=resume_from)
    if is_main():
        loss_curve(history, folder / "loss_curve.png")
    print(f"snapshots and loss_curve.png: {folder}")
    return history[-100:].sum(dim=1).nanmean().item()


def training_cases(data: DataOptions) -> list[Case]:
    """Return the cases outside the test fold.

    Raises:
        InputError: the data set is missing.
    """
    cases = data.cases()
    held_out = fold_positions(len(cases), data.spec.n_folds, data.eval_fold)
    return [case for position, case in enumerate(cases) if position not in held_out]


def expect_elsewhere(weights: str | None, folder: Path) -> None:
    """Raise InputError if the weights to start from lie in the run folder, which this training writes to."""
    if weights is not None and lies_in(Path(weights), folder):
        raise InputError(f"reload_model_path: {weights} lies in {folder}, which this run writes to; "
                         "allowed: a copy of it elsewhere, or resume=never")


def starting_model(options: ModelOptions, resume_from: Snapshot | None, weights: str | None) -> FewShotModel:
    """Return the model to train, and print what it starts from. `qnet.util.training.loop.train` restores `resume_from`.

    Raises:
        InputError: the model needs no training, or the weights cannot be read or do not fit.
    """
    model = None if options.model in UNTRAINED_MODELS else build_model(options)
    if not isinstance(model, FewShotModel):
        raise InputError(f"model: got {options.model!r}, which is not trained here: `qnet test` evaluates it as it is; allowed: "
                         f"{', '.join(name for name in MODELS if name not in UNTRAINED_MODELS)}")
    if resume_from is not None:
        print(f"going on from step {resume_from.step}: {resume_from.path}")
    elif weights is not None:
        load_model(model, read_snapshot(weights))
        print(f"starting from the weights of {weights}")
    else:
        print(initialise(model, options))
    return model


def training_episodes(cases: Sequence[Case], data: DataOptions, episodes: EpisodeOptions,
                      options: TrainOptions, kept_in: Path, *, in_3d: bool) -> EpisodeDataset:
    """Prepare the training volumes, and return the episodes of all processes.

    Args:
        kept_in: the folder of the prepared volumes. The processes share out the making of those that are missing.
        in_3d: episodes are of stacks, and not of slices.
    Raises:
        InputError: a file is missing or damaged, or no volume can be trained on; or stacks are to be drawn from superpixels.
    """
    if in_3d and episodes.same_slice:
        raise InputError("pseudo_labels: got 'superpixels', which lie in one slice; allowed with a model in 3D: 'supervoxels'")
    volumes = load_training_volumes(
        cases, data.spec, Store(kept_in), exclude_label=episodes.exclude_label, exclude_rule=episodes.exclude_rule,
        use_gt=episodes.use_gt, test_label=episodes.test_label, pseudo_labels=episodes.pseudo_labels)
    n_episodes = options.n_steps * options.batch_size * world_size()
    if in_3d:
        return StackDataset(volumes, n_episodes, episodes.seed, episodes.n_shot, episodes.min_size, episodes.stack.n_slices,
                            episodes.stack.size_px)
    return EpisodeDataset(volumes, n_episodes, episodes.seed, episodes.n_shot, episodes.min_size, episodes.same_slice)


def run() -> None:
    """Run the command line.

    Raises:
        SystemExit: as `run_commandline`.
    """
    run_commandline(experiment)


if __name__ == "__main__":
    run()
