"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import tqdm
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from util.checkpoints import Snapshot, save_snapshot
from util.progress import progress


def train(model: nn.Module, episodes: Dataset, *, n_steps: int, batch_size: int, num_workers: int, optim: Mapping[str, float],
          lr_step_gamma: float, max_iters_per_load: int, print_interval: int, save_snapshot_every: int, device: torch.device,
          snapshot_dir: Path, config: Mapping[str, Any], log_scalar: Callable[[str, float, int], None],
          resume_from: Snapshot | None = None) -> Tensor:
    """Train up to step `n_steps` and return the (n_steps, losses) losses of every step, in the order of `model.loss_names`.

    Episode (step − 1)·batch_size + b is the b-th of a step, so a resumed run sees the episodes it would have seen.

    Raises:
        RuntimeError: a loss is not finite; found at the next log entry.
    """
    model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), **optim)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, max_iters_per_load, lr_step_gamma)
    done = 0
    # on the device, so that no step waits for its losses to be read
    history = torch.zeros(n_steps, len(model.loss_names), device=device)
    if resume_from is not None:
        done = resume_from.step
        history[:done] = resume_from.history
        optimizer.load_state_dict(resume_from.optimizer)
        scheduler.load_state_dict(resume_from.scheduler)
    loader = DataLoader(episodes, batch_size, sampler=range(done * batch_size, n_steps * batch_size), num_workers=num_workers,
                        pin_memory=device.type == "cuda")
    logged = done
    with progress(total=n_steps * batch_size, initial=done * batch_size, desc="training", unit="episode") as bar:
        for step, episode in enumerate(loader, start=done + 1):
            losses = model.episode_losses(episode.to(device))
            optimizer.zero_grad(set_to_none=True)
            sum(losses.values()).backward()
            optimizer.step()
            scheduler.step()
            history[step - 1] = torch.stack([losses[name] for name in model.loss_names]).detach()
            bar.update(batch_size)
            if step % print_interval == 0 or step == n_steps:
                _log(model.loss_names, history[logged:step], scheduler.get_last_lr()[0], step, bar, log_scalar)
                logged = step
            if step % save_snapshot_every == 0 or step == n_steps:
                save_snapshot(snapshot_dir / f"{step}.pth", model, step=step, optimizer=optimizer, scheduler=scheduler,
                              history=history[:step].cpu(), config=config)
    return history.cpu()


def _log(names: Sequence[str], losses: Tensor, learning_rate: float, step: int, bar: tqdm.tqdm,
         log_scalar: Callable[[str, float, int], None]) -> None:
    if not torch.isfinite(losses).all():
        raise RuntimeError(f"the loss is not finite in steps {step - len(losses) + 1} to {step}; a lower optim.lr may help")
    means = dict(zip(names, losses.mean(dim=0).tolist(), strict=True))
    total = sum(means.values())
    for name, value in (*((f"{name}_loss", mean) for name, mean in means.items()), ("total_loss", total), ("lr", learning_rate)):
        log_scalar(name, value, step)
    bar.set_postfix(loss=f"{total:.3f}", **{name: f"{mean:.3f}" for name, mean in means.items()}, lr=f"{learning_rate:.2g}")
