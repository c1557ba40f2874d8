"""A segmenter that trains a student for each support, when scans are segmented, and lets it speak beside `guided`."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
import tqdm
from torch import nn
from typing_extensions import override

from qnet.dataloaders.volumes import Volume
from qnet.models.carrying import RegistrationModel
from qnet.models.guided import Trial
from qnet.models.settings import StudentSettings
from qnet.models.student import (
    Slicing,
    Student,
    Training,
    gains_anywhere,
    lessons_of,
    lessons_sha256,
    probabilities,
    tried,
)
from qnet.models.volume import STUDENT, Box, Guide, Support
from qnet.util.base.checksums import digest
from qnet.util.base.distributed import shared
from qnet.util.base.errors import InputError
from qnet.util.base.files import made_in, replacing
from qnet.util.base.fingerprint import OUTLINES, code_sha256
from qnet.util.base.guard import is_made
from qnet.util.base.progress import progress
from qnet.util.engine.segmenters import VolumeSegmenter
from qnet.util.engine.task import Task
from qnet.util.options.sections import WholeVolumeOptions

SAVE_EVERY = 50          # steps
TIMED = 5                # steps, after which it is told how long all will take
MINUTE_S = 60


class StudentSegmenter(VolumeSegmenter):
    """Segments as `VolumeSegmenter`, and with a student of each support, which is trained once for all queries.

    A student learns from the stepping stones. Without any there is none, and the result is that of the model alone.

    Args:
        model: registers, and draws borders.
        settings: of the training.
        seed: of the training: the same scans give the same network on the same kind of device.
        folder: where an unfinished training is kept, so that it goes on after a kill; None: it is not.
    """

    def __init__(self, model: RegistrationModel, settings: StudentSettings, seed: int, device: torch.device,
                 whole: WholeVolumeOptions, folder: Path | None):
        super().__init__(model, device, whole)
        self.settings, self.seed, self.folder = settings, seed, folder
        self._students: dict[Volume, tuple[frozenset[Volume], Student | None]] = {}     # with the stones that it learned from

    @override
    def preparing(self, supports: Sequence[tuple[Volume, Sequence[int]]], stones: Sequence[Volume] = ()) -> Iterator[Volume]:
        """Outline the stepping stones, and train a student for each support. Of several processes, each does its share."""
        yield from super().preparing(supports, stones)
        volumes = [support for support, _ in supports]
        jobs = [partial(self._learned, support, stones) for support in volumes]
        for support, student in zip(volumes, shared(jobs, self.device), strict=True):
            self._students[support] = frozenset(stones), student

    @override
    def _register(self, task: Task, bar: tqdm.tqdm | None) -> tuple[dict[Volume, Guide], Box | None]:
        guides, box = super()._register(task, bar)
        if box is None:
            return guides, box
        students = {volume: self._student(volume, task.stones) for volume in guides}
        scan = self._scan(task.query)
        return {volume: guide if (student := students[volume]) is None else
                guide._replace(voice=student.voice(scan, box, self.settings.batch_size)) for volume, guide in guides.items()}, box

    def _student(self, support: Volume, stones: Sequence[Volume]) -> Student | None:
        """Return the student of a support, as `preparing` trained it; else one that learns from some stones, trained now."""
        if support not in self._students or not frozenset(stones) <= self._students[support][0]:
            self._students[support] = frozenset(stones), self._learned(support, stones)
        return self._students[support][1]

    def _learned(self, volume: Volume, stones: Sequence[Volume]) -> Student | None:
        """Train the student of a support; None if there is nothing to learn from, or no class gains by it."""
        support = self._support(volume)
        found = [outlines for stone in stones if (outlines := self._stones.get((stone, volume))) is not None]
        if support is None or not found:
            print(f"{STUDENT}: no stepping stone shows the classes of {volume.name}, so there is none; the outlines are guided's")
            return None
        slicing = Slicing.of(support)
        lessons = lessons_of(support, found, slicing)
        training, kept = Training(lessons, self.settings, self.seed), self._kept(volume, lessons_sha256(lessons))
        trials, name = kept.read_into(training), f"{STUDENT} of {volume.name}"
        with progress(total=self.settings.n_steps, initial=training.n_done, desc=name, unit="step") as bar:
            clock = Clock(training.n_done, self.settings.n_steps, name)

            def train_to(n_steps: int) -> None:
                while training.n_done < n_steps:
                    training.step()
                    bar.update()
                    clock.tell(training.n_done)
                    if training.n_done % SAVE_EVERY == 0 or training.n_done == n_steps:
                        kept.write(training, trials)

            train_to(training.n_alone)
            if trials is None:
                trials = self._tried(support, training.network, slicing)
            if gains_anywhere(trials):
                train_to(self.settings.n_steps)
                return Student(training.network.eval(), slicing, trials, self.settings.share)
        print(f"{name}: no class gains by it on the outlined scan; the outlines are guided's")
        return None

    def _tried(self, support: Support, network: nn.Module, slicing: Slicing) -> list[list[Trial]]:
        """Try a network that has not seen the outlined scan on it."""
        assert isinstance(self.model, RegistrationModel)
        alone = probabilities(network, slicing, support.scan, support.around, self.settings.batch_size)
        return tried(self.model, support, alone, self.settings.share)

    def _kept(self, volume: Volume, lessons: str) -> Kept:
        key = digest([lessons, vars(self.settings), self.seed, str(self.device.type), code_sha256(OUTLINES)])
        return Kept(None if self.folder is None else self.folder / f"{STUDENT} of {volume.name}.pth", key)

    @override
    def finish(self) -> None:
        """See Segmenter: the files of trainings."""
        if self.folder is not None:
            made = made_in(self.folder)
            for path in self.folder.glob(f"{STUDENT} of *.pth"):
                if is_made(path, made):
                    path.unlink()


class Clock:
    """Tells how long a training will take, once a few steps are done.

    Args:
        n_done, n_steps: done so far, and of all.
        name: of the training.
    """

    def __init__(self, n_done: int, n_steps: int, name: str):
        self.first, self.n_steps, self.name, self.began = n_done + 1, n_steps, name, 0.0

    def tell(self, n_done: int) -> None:
        """Say it after TIMED steps. The first step does what all others need not."""
        if n_done == self.first:
            self.began = time.monotonic()
        if n_done == self.first + TIMED:
            minutes = (time.monotonic() - self.began) / TIMED * (self.n_steps - n_done) / MINUTE_S
            print(f"{self.name}: {self.n_steps} steps, about {minutes:.1f} minutes", flush=True)


class Kept:
    """An unfinished training on disk.

    Args:
        path: of the file; None: nothing is kept.
        key: what the training depends on.
    Raises:
        InputError: the file is there and is somebody else's.
    """

    def __init__(self, path: Path | None, key: str):
        self.path, self.key = path, key
        if path is not None and os.path.lexists(path) and not is_made(path, made_in(path.parent)):
            raise InputError(f"{path}: is there and was not made by this program, or was changed since; allowed: another output, "
                             "or to move it away")

    def write(self, training: Training, trials: Sequence[Sequence[Trial]] | None) -> None:
        """Write how far it is. OSError: that cannot be written."""
        if self.path is None:
            return
        told = None if trials is None else [[(trial.before, dict(trial.gains)) for trial in of_class] for of_class in trials]
        content = io.BytesIO()      # torch.save does not fail cleanly on a full disk
        torch.save({"key": self.key, "trials": told, **training.state()}, content)
        with replacing(self.path) as partial:
            partial.write_bytes(content.getbuffer())

    def read_into(self, training: Training) -> list[list[Trial]] | None:
        """Let a training go on, if there is a file of the same one, and return the trials; None if they were not made."""
        if self.path is None or not self.path.exists():
            return None
        content = torch.load(self.path, map_location="cpu", weights_only=True)
        if content["key"] != self.key:
            return None
        training.go_on(content)
        told = content["trials"]
        return None if told is None else [[Trial(before, gains) for before, gains in of_class] for of_class in told]
