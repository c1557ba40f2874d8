"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from qnet.dataloaders.episodes import EpisodeDataset
from qnet.models.base import FewShotModel
from qnet.util.base.distributed import is_main, largest_of_processes, mean_over_processes, of_main, parallel, rank, world_size
from qnet.util.base.episode import Episode
from qnet.util.base.errors import InputError
from qnet.util.base.files import remove_partial_files
from qnet.util.base.progress import progress
from qnet.util.base.signals import Interrupted, deferred_signals, ignore_signals
from qnet.util.options.record import Record
from qnet.util.options.sections import TrainOptions
from qnet.util.training.snapshots import Snapshot, load_model, prune_snapshots, restore_generators, save_snapshot


class Trainer:
    """The state of a training: model, optimiser, schedule, losses.

    Args:
        model: trained in place.
        device: where the model is moved to.
        record: what every snapshot stores of the options.
    Attributes:
        step: number of steps done, including refused ones.
        history: (n_steps, losses) losses of every step, in the order of `model.loss_names`. A refused step has NaN.
        log: entries of the training log so far.
        refused: one line per refused step.
    """

    def __init__(self, model: FewShotModel, options: TrainOptions, device: torch.device, record: Record):
        self.model, self.options, self.device, self.record = model, options, device, record
        model.to(device).to(memory_format=torch.channels_last_3d if model.reads_stacks else torch.channels_last).train()
        self._replica = parallel(model, options.sync_batchnorm)
        self.optimizer = torch.optim.SGD(model.parameters(), **asdict(options.optim), fused=True)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, options.lr_step_every, options.lr_step_gamma)
        self.step = 0
        self.history = torch.zeros(options.n_steps, len(model.loss_names), device=device)
        self.log: list[dict[str, float]] = []
        self.refused: list[str] = []
        self._buffers = list(model.buffers())
        self._buffers_before = [buffer.clone() for buffer in self._buffers]

    def advance(self, episode: Episode) -> dict[str, float] | None:
        """Make one step. A step whose losses or gradient are not finite is refused.

        A refused step leaves weights, optimiser and BatchNorm statistics unchanged, but counts for the schedule. As in
        torch's GradScaler, the host waits for one number per step.

        Args:
            episode: a batch, with the axis B.
        Returns:
            None, or of a refused step its losses and the norm of its gradient.
        """
        torch._foreach_copy_(self._buffers_before, self._buffers)
        losses = self._replica(episode.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        means = mean_over_processes(torch.stack([losses[name] for name in self.model.loss_names]).detach())
        norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        accepted = (means.sum() + norm).isfinite().item()
        if accepted:
            if self.options.clip_gradient is not None:
                nn.utils.clip_grad_value_(self.model.parameters(), self.options.clip_gradient)
            self.optimizer.step()
            self.history[self.step] = means
        else:
            torch._foreach_copy_(self._buffers, self._buffers_before)
            self.history[self.step] = torch.nan
        self.scheduler.step()
        self.step += 1
        if accepted:
            return None
        return {**{f"{name}_loss": mean.item() for name, mean in zip(self.model.loss_names, means, strict=True)},
                "gradient": norm.item()}

    def add_log_entry(self) -> dict[str, float]:
        """Add an entry to the log and return it: the mean losses since the last multiple of `print_interval`."""
        interval = self.options.print_interval
        means = self.history[(self.step - 1) // interval * interval:self.step].nanmean(dim=0).tolist()
        losses = {f"{name}_loss": mean for name, mean in zip(self.model.loss_names, means, strict=True)}
        self.log.append({"step": self.step, **losses, "total_loss": sum(means), "lr": float(self.scheduler.get_last_lr()[0])})
        return self.log[-1]

    def save(self, folder: Path) -> Path:
        """Write the snapshot of this step, remove old ones as `keep_snapshots` says, and return its path.

        Only the main process writes.

        Raises:
            OSError: the snapshot cannot be written.
        """
        path = folder / f"{self.step}.pth"
        if not is_main():
            return path
        save_snapshot(path, record=self.record, model=self.model.state_dict(), optimizer=self.optimizer.state_dict(),
                      scheduler=self.scheduler.state_dict(), step=self.step, history=self.history[:self.step].cpu(),
                      log=self.log, refused=self.refused)
        if isinstance(self.options.keep_snapshots, int):        # else "all"
            prune_snapshots(folder, self.step, self.options.keep_snapshots)
        return path

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the state of a snapshot of a training.

        Raises:
            InputError: its weights do not fit the model.
        """
        assert snapshot.step is not None and snapshot.optimizer is not None and snapshot.scheduler is not None
        assert snapshot.history is not None     # only a file of weights lacks these, and `snapshot_to_resume` refuses it
        load_model(self.model, snapshot)
        self.optimizer.load_state_dict(snapshot.optimizer)
        self.scheduler.load_state_dict(snapshot.scheduler)
        self.step, self.log, self.refused = snapshot.step, list(snapshot.log), list(snapshot.refused)
        self.history[:self.step] = snapshot.history
        if snapshot.generators is not None:
            restore_generators(snapshot.generators)


def train(model: FewShotModel, episodes: EpisodeDataset, options: TrainOptions, *, device: torch.device, record: Record,
          snapshot_dir: Path, log_scalar: Callable[[str, float, int], None], resume_from: Snapshot | None = None) -> Tensor:
    """Train a model up to step `n_steps`.

    At each step, process r of W takes the episodes ((step − 1)·W + r)·batch_size + b, b < batch_size. So a resumed training
    sees the same episodes as an undisturbed one. Losses and gradients are means over the processes. The main process writes
    the snapshots. After SIGTERM or Ctrl-C in any process, all finish the step and the main one saves it.

    Args:
        model: trained in place.
        record: what every snapshot stores of the options.
        snapshot_dir: where snapshots are written.
        log_scalar: takes name, value and step of each logged number. A resumed training logs its earlier steps again.
        resume_from: the snapshot to continue from; None starts at step 0.
    Returns:
        (n_steps, losses) losses of every step on the CPU, in the order of `model.loss_names`; NaN where a step was refused.
    Raises:
        InputError: more than `max_refused_steps` steps were refused, or the processes found different snapshots.
        OSError: a snapshot cannot be written.
        Interrupted: after SIGTERM or Ctrl-C.
    """
    remove_partial_files(snapshot_dir)
    trainer = Trainer(model, options, device, record)
    if resume_from is not None:
        trainer.restore(resume_from)
    if trainer.step != of_main(trainer.step):
        raise InputError(f"resume: process {rank()} finds step {trainer.step} in {snapshot_dir}, and the main process another; "
                         "allowed: a path.log_dir that all machines see")
    for entry in trainer.log:
        _log(entry, log_scalar)
    n_steps, per_step, stop_signal = options.n_steps, options.batch_size * world_size(), 0
    # its own generator: a loader draws a number for its workers, and would draw it from torch's global one
    loader = DataLoader(episodes, options.batch_size, sampler=_own_episodes(trainer.step, n_steps, options.batch_size),
                        num_workers=options.num_workers, worker_init_fn=ignore_signals, generator=torch.Generator(),
                        pin_memory=device.type == "cuda")
    with (progress(total=n_steps * per_step, initial=trainer.step * per_step, desc="training", unit="episode") as bar,
          deferred_signals() as stop):
        for episode in loader:
            bad_losses = trainer.advance(episode)
            bar.update(per_step)
            stop_signal = largest_of_processes(stop.number or 0)
            if bad_losses is not None:
                trainer.refused.append(_describe(trainer.step, bad_losses, episodes, per_step))
                bar.write(f"refused, as it is not finite: {trainer.refused[-1]}")
                _expect_few(trainer.refused, options.max_refused_steps)
            last = trainer.step == n_steps
            if last or trainer.step % options.print_interval == 0:
                entry = trainer.add_log_entry()
                _log(entry, log_scalar)
                bar.set_postfix({name.removesuffix("_loss"): f"{value:.3g}" for name, value in entry.items() if name != "step"})
            if last or stop_signal or trainer.step % options.save_snapshot_every == 0:
                path = trainer.save(snapshot_dir)
            if stop_signal:
                break
    if stop_signal:
        print(f"stopped after step {trainer.step} of {n_steps}; the same command, with resume=auto, goes on from {path}")
        raise Interrupted(stop_signal)
    return trainer.history.cpu()


def _own_episodes(done: int, n_steps: int, batch_size: int) -> list[int]:
    """Return the numbers of the episodes that this process takes after step `done`."""
    return [(step * world_size() + rank()) * batch_size + b for step in range(done, n_steps) for b in range(batch_size)]


def _log(entry: Mapping[str, float], log_scalar: Callable[[str, float, int], None]) -> None:
    for name, value in entry.items():
        if name != "step":
            log_scalar(name, value, int(entry["step"]))


def _describe(step: int, losses: Mapping[str, float], episodes: EpisodeDataset, per_step: int) -> str:
    """Describe a step: its losses, and the episodes of all processes."""
    drawn = [episodes.draw(index) for index in range((step - 1) * per_step, step * per_step)]
    where = "; ".join(f"case {case}, supervoxel or class {label}, support slices {slices[:-1]}, query slice {slices[-1]}"
                      for case, label, slices in drawn)
    return f"step {step} ({', '.join(f'{name} {value:.4g}' for name, value in losses.items())}): {where}"


def _expect_few(refused: list[str], allowed: int) -> None:
    if len(refused) > allowed:
        print("\n  ".join(["refused so far:", *refused]))
        raise InputError(f"max_refused_steps: {len(refused)} steps had a loss or gradient that is not finite, allowed: "
                         f"{allowed}; look at the episodes above, or lower optim.lr")
