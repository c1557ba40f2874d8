"""What is asked for: which scans are outlined, from which others, by which method, and where the results go.

    from qnet.util.predict.outline import outline
    from qnet.util.predict.request import Request

    for event in outline(Request.of_folder("scans/", [("scans/a.nii.gz", "a_labels.nii.gz")], "outlined/")):
        print(event)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qnet.dataloaders.reading import is_nifti
from qnet.util.base.checksums import digest
from qnet.util.base.errors import InputError
from qnet.util.options.config import base_config, load_config, of_today
from qnet.util.options.names import VOLUME_MODELS
from qnet.util.options.record import Record
from qnet.util.options.sections import PredictOptions, PredictorOptions, Role, section, with_role
from qnet.util.predict.series import Series
from qnet.util.taskfile.task_file import manifest_of
from qnet.util.training.as_trained import as_trained, complete


@dataclass(frozen=True)
class Words:
    """What the program that runs calls its options, in messages."""

    queries: str = "query"
    output: str = "output"
    overwrite: str = "overwrite=true"
    fill: str = "fill=true"
    format: str = "format"


OF_PYTHON = Words("scans", "output", "overwrite=True", "fill=True", "format")


@dataclass(frozen=True)
class Query:
    """A scan to outline.

    Attributes:
        name: of the file without its ending, or of the folder.
        scan: the path of an image file or of a folder of DICOM slices.
        target: the path of the label map to write.
        others: the paths of further channels of the same patient; those of `scan` are the first.
    """

    name: str
    scan: Path
    target: Path
    others: tuple[Path, ...] = ()

    @property
    def channels(self) -> tuple[Path, ...]:
        """The paths of all channels."""
        return self.scan, *self.others


@dataclass(frozen=True)
class Request:
    """What `qnet.util.predict.outline.outline` does.

    Attributes:
        method: the model and its options.
        queries: a scan, or a folder of scans, of which those that are outlined are none. Or scans with a name and a target each;
            then there are label maps alone, no table and no report, and the caller sees to it that no target is a user's.
        supports: (image, labels) of each outlined scan. Those of a task file come before them.
        output: the folder of the results, or for one scan the name of a NIfTI file; None where the queries have targets.
        task: a task file.
        names: of label values. They come before those of the task file or the data set.
        fill: fill slices that were left out between outlined ones, by shape.
        stones: the stepping stones; None: as many of the queries as the method uses, spread evenly.
        save_probs: write the probability map of each label and the uncertainty too.
        anew: outline again what is there already, made of the same.
        overwrite: replace files that this project did not write, or that were changed since. What is read is never replaced.
        formats: what outlines are written as too, beside the label map (`qnet.dataloaders.outlines.formats`).
        suffix: of the scans, where `queries` is a BIDS folder (`qnet.util.predict.bids`); derivatives are written then.
        channels: names of the sequences of each patient that are one scan (`qnet.util.predict.channels`); none: each scan is one.
            Paths of supports are those of their first channel.
        follow_ups: paths of two scans of one patient each, whose change of volume is told.
        series: the 4D file whose phases the queries are; None if they are others.
        also: files that the caller will write, which are checked with the others. Not where the queries have targets.
        options: checksum of the options that outlines depend on.
        words: what the program that runs calls its options.
    """

    method: PredictorOptions
    queries: Path | tuple[Query, ...]
    supports: tuple[tuple[Path, Path], ...] = ()
    output: Path | None = None
    task: Path | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    fill: bool = False
    stones: tuple[Path, ...] | None = None
    save_probs: bool = False
    anew: bool = False
    overwrite: bool = False
    options: str = ""
    words: Words = Words()
    also: tuple[Path, ...] = ()
    formats: tuple[str, ...] = ()
    series: Series | None = None
    suffix: str | None = None
    follow_ups: tuple[tuple[Path, Path], ...] = ()
    channels: tuple[str, ...] = ()

    @property
    def folder(self) -> Path | None:
        """The folder of the results; None where the queries have targets."""
        return self.output.parent if self.output is not None and is_nifti(self.output) else self.output

    @classmethod
    def of(cls, config: Mapping[str, Any], names: Mapping[int, str] | None = None, words: Words = Words()) -> Request:
        """Return what a complete config asks for.

        Raises:
            InputError: `query` or `output` is missing; there is no support; images and labels differ in number; or supports are
                given beside a task file, which has its own; or so are channels.
        """
        options = section(PredictOptions, config)
        if options.task is not None and options.channels is not None:
            raise InputError(f"channels: got {list(options.channels)}, allowed with a task file, whose scans have one: null")
        supports = supports_of(options)
        if not options.query or not options.output:
            raise InputError(f"{words.queries}, {words.output}: got null, allowed: the path of a scan or a folder of scans, and "
                             "one to write to")
        return cls(PredictorOptions.of(config), Path(options.query), supports, Path(options.output),
                   None if options.task is None else Path(options.task), names or {}, options.fill, None, options.save_probs,
                   options.resume == "never", options.overwrite,
                   digest(Record(config).without(with_role(Role.ELSEWHERE))), words,
                   formats=(options.format,) if isinstance(options.format, str) else tuple(options.format),
                   channels=options.channels or ())

    @classmethod
    def of_folder(cls, scans: Path | str, outlined: Sequence[tuple[Path | str, Path | str]], output: Path | str, *,
                  names: Mapping[int, str] | None = None, fill: bool = False, overwrite: bool = False, method: str = "guided",
                  words: Words = OF_PYTHON, **options: Any) -> Request:
        """Return the request for the scans of a folder, by a method that needs no training.

        Args:
            scans: a folder, or one scan.
            outlined: (scan, labels) of each outlined scan.
            output: the folder of the results.
            names, fill, overwrite, words: as in the request.
            method: "guided", "student" or "registration", with the options of its file in `configs/`.
            options: options of configs/base.json5 with other values than there, as `device="cpu"`.
        Raises:
            InputError: an option is not allowed.
        """
        images, labels = ([str(path) for path in column] for column in zip(*outlined, strict=True))
        return cls.of(complete({**load_config(method), **options, "support_image": images, "support_label": labels,
                                "query": str(scans), "output": str(output), "overwrite": overwrite, "fill": fill}), names, words)


def supports_of(options: PredictOptions) -> tuple[tuple[Path, Path], ...]:
    """Return (image, labels) of each support that the options name.

    Raises:
        InputError: there is no support, or the numbers of images and labels differ; or there is a task file beside them.
    """
    if options.task is not None:
        if given := [key for key in ("support_image", "support_label", "reload_model_path") if getattr(options, key) is not None]:
            raise InputError(f"{given[0]}: got {getattr(options, given[0])!r}, allowed with a task file, which has its own: null")
        return ()
    images, labels = ([paths] if isinstance(paths, str) else list(paths or [])
                      for paths in (options.support_image, options.support_label))
    if not images or len(images) != len(labels):
        raise InputError(f"support_image, support_label: got {len(images)} images and {len(labels)} labels; "
                         "allowed: equally many, at least one")
    return tuple((Path(image), Path(label)) for image, label in zip(images, labels, strict=True))


def untrained_method(model: str = "guided", **options: Any) -> PredictorOptions:
    """Return a method that needs no training, with the options of its file in `configs/`, as the stepping stones of `guided`.

    Args:
        model: "guided" or "registration".
        options: options of configs/base.json5 with other values than there.
    Raises:
        InputError: an option is not allowed.
    """
    method = load_config(model) if model in VOLUME_MODELS else base_config()
    return PredictorOptions.of(complete({**method, **options, "model": model, "reload_model_path": None}))


def method_of_task(task: Path | str, **options: Any) -> PredictorOptions:
    """Return the method of a task file with its options.

    Args:
        options: those with other values than in the task file and configs/base.json5.
    Raises:
        InputError: the file is missing, damaged or something else, or an option is not allowed.
    """
    stored = of_today(manifest_of(task).options)
    return PredictorOptions.of(complete(as_trained(base_config() | options, stored, tuple(stored), given=options)))
