"""The Python API: segments scans from supports, without a config or a run folder.

    from qnet.util.predict.predictor import Predictor

    predictor = Predictor.untrained("guided")       # or Predictor.load("runs/…/snapshots/30000.pth"), or of a task file
    predictor.add_support("support.nii.gz", "support_labels.nii.gz")
    predictor.segment("scan.nii.gz").save("scan_labels.nii.gz")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from qnet.dataloaders.datasets import DatasetSpec, Grid
from qnet.dataloaders.folds import stepping_stones
from qnet.dataloaders.geometry import affine_of_image, voxel_ml
from qnet.dataloaders.outlines.segments import Outlines
from qnet.dataloaders.outlines.writing import expect_formats, files_in, write_formats
from qnet.dataloaders.volumes import Volume
from qnet.util.base.classes import colours_of
from qnet.util.base.device import resolve_device, set_up_process
from qnet.util.base.errors import InputError
from qnet.util.base.guard import claim
from qnet.util.base.tables import significant
from qnet.util.engine.segmenters import Member, Segmenter, VolumeSegmenter
from qnet.util.engine.task import Task, label_map_of
from qnet.util.engine.uncertainty import AUGMENTATIONS, Agreement, Augmentation, most_doubtful
from qnet.util.engine.whole_volume import largest_components, smooth_along_z
from qnet.util.engine.whole_volume import to_label_map as join_classes
from qnet.util.options.config import base_config
from qnet.util.options.sections import PredictorOptions, WholeVolumeOptions
from qnet.util.predict.cases import measured
from qnet.util.predict.channels import channels_of
from qnet.util.predict.loading import load_segmenter
from qnet.util.predict.maps import beside, probability_path, registered_path
from qnet.util.predict.request import Request, method_of_task, untrained_method
from qnet.util.predict.scans import (
    Given,
    Image,
    Scan,
    frame_of,
    label_names,
    label_values,
    like_given,
    read_scan,
    read_support,
    to_scan,
    volumes_ml,
    voxel_of_scan,
    write_on_scan,
)
from qnet.util.taskfile.task_file import ENDING, opened
from qnet.util.training.as_trained import as_trained, complete
from qnet.util.training.snapshots import read_snapshot


@dataclass(frozen=True)
class Support:
    """A support scan, and its volume on the model's grid. The label map has the values of the label file.

    `gaps` tells which slices were left out between outlined ones; None if none was. `outlines` are on the scan's own grid, with
    the names and colours that its file gives to values.
    """

    scan: Scan
    volume: Volume
    gaps: str | None
    outlines: Outlines

    @cached_property
    def volumes_ml(self) -> dict[int, float]:
        """The volume of each label, on the scan's own grid."""
        return volumes_ml(self.outlines.labels)


@dataclass(frozen=True)
class Segmentation:
    """The segmentation of a scan.

    Attributes:
        scan: the scan.
        label_map: (D, H, W) uint8 or int16 on the scan's own grid, with the values of the supports' labels.
        names: by value.
        on_grid: by value, the (D, H, W) probability on the model's grid, 0 to 1.
        agreement: of the supports, and of augmented copies of the scan.
        members: without their probabilities: of all supports together, if the method has such a one, else of each support.
        colours: by value.
        outlined_ml: by value, the volume in the outlined scan; of several, the median of those that hold it.
    """

    scan: Scan
    label_map: np.ndarray
    names: Mapping[int, str]
    on_grid: Mapping[int, np.ndarray]
    agreement: Agreement
    members: Sequence[Member] = ()
    colours: Mapping[int, str] = field(default_factory=dict)
    outlined_ml: Mapping[int, float] = field(default_factory=dict)

    @property
    def registered(self) -> np.ndarray | None:
        """(D, H, W) uint8 image of the first support, registered to the scan, on the model's grid; None if there is none."""
        return self.members[0].warped if self.members else None

    @cached_property
    def image(self) -> Image:
        """The label map as an image, of the kind that the scan was given as: nibabel or SimpleITK. For a path, nibabel."""
        return like_given(self.label_map, self.scan)

    def probability(self, label: int) -> np.ndarray:
        """Return the probability of a label, (D, H, W) on the scan's own grid, 0 to 1.

        Raises:
            KeyError: the label was not segmented.
        """
        return to_scan(self.on_grid[label], self.scan)

    def uncertainty(self) -> np.ndarray:
        """Return the uncertainty, (D, H, W) on the scan's own grid, 0 (certain) to 1. See `Agreement.disagreement`."""
        return to_scan(self.agreement.disagreement(), self.scan)

    def numbers(self) -> list[dict[str, Any]]:
        """Return for each label its volume in ml (4 significant digits), its number of slices, `Agreement.numbers`, and more.

        "outlined_ml" is its volume in the outlined scan, and "look_at" where to look at it first (`look_at`), as "x y z". The
        settings are "border" (`Member.borders`) and "wide_mm" (`Member.wide_mm`). What there is none of is None. A label of which
        nothing was found has the confidence 0, if the model has confidences.
        """
        ml = voxel_ml(affine_of_image(self.scan.original))
        wide_mm = next((member.wide_mm for member in self.members if member.wide_mm is not None), None)
        rows = []
        for label, name in self.names.items():
            mask = self.label_map == label
            borders = dict.fromkeys(member.borders[label] for member in self.members if label in member.borders)
            row = {"query": self.scan.name, "label": label, "label_name": name, **measured(mask, ml),
                   **self.agreement.numbers(label, self.on_grid.get(label)),
                   "border": "; ".join(borders) or None, "wide_mm": None if wide_mm is None else significant(wide_mm),
                   "outlined_ml": significant(self.outlined_ml[label]) if label in self.outlined_ml else None,
                   "look_at": " ".join(map(str, self.look_at(label) or ())) or None}
            if self.agreement.confidences and not mask.any():
                row["confidence"] = 0.0
            rows.append(row)
        return rows

    def look_at(self, label: int) -> tuple[int, int, int] | None:
        """Return the voxel (x, y, z) of the scan in whose three slices most of a label is in doubt (`most_doubtful`).

        Returns:
            None if nothing is in doubt.
        """
        place = most_doubtful(self.on_grid[label]) if label in self.on_grid else None
        return None if place is None else voxel_of_scan(place, self.scan)

    def save(self, path: Path | str, formats: Sequence[str] = (), *, overwrite: bool = False) -> None:
        """Write the label map as NIfTI on the scan's own grid, and beside it the same outlines in other formats.

        Args:
            formats: of `qnet.dataloaders.outlines.formats`, as "seg.nrrd".
            overwrite: replace a file that this project did not write, or that was changed since. The scan is never replaced.
        Raises:
            InputError: a file may not be written, or a format cannot hold outlines of this scan.
            OSError: a file cannot be written.
        """
        path, read = Path(path), self.scan.files
        expect_formats(formats, read[:1] or [Path(self.scan.name)], self.names.values(), "formats")
        claim([path, *files_in(formats, path, self.names.values())], read, overwrite=overwrite, remedy="overwrite=True")
        self.write(path, registered=False, formats=formats)

    def write(self, target: Path, *, registered: bool = True, save_probs: bool = False, formats: Sequence[str] = ()) -> None:
        """Write the label map and the files that belong to it (`maps_of`), on the scan's own grid. The label map comes last.

        No file is protected: the caller checks with `qnet.util.base.guard.claim`.

        Args:
            target: the path of the label map.
            registered: write the registered support's image too, if there is one.
            save_probs: write the probability map of each label and the uncertainty too, with 3 decimals.
            formats: write the outlines as these too.
        Raises:
            InputError: a format cannot hold these outlines.
            OSError: a file cannot be written.
        """
        if save_probs:
            for label in self.on_grid:
                write_on_scan(self.probability(label).round(3), self.scan, probability_path(target, self.names[label]))
            write_on_scan(self.uncertainty().round(3), self.scan, beside(target, "uncertainty"))
        if registered and self.registered is not None:
            moved = to_scan(self.registered.astype(np.float32), self.scan).round().astype(np.uint8)
            write_on_scan(moved, self.scan, registered_path(target))
        write_formats(formats, self.label_map, self.scan.original, self.scan.path, self.names, self.colours, target)
        write_on_scan(self.label_map, self.scan, target)


class Predictor:
    """A model with its supports, which segments scans.

    Args:
        segmenter: holds the model.
        spec: the data set that the model was trained on. Scans are resampled to its grid, and its names of labels are used.
            None for a model that takes scans on their own grid.
        options: how whole volumes are segmented.
        augment: also segment augmented copies of each scan, and take the mean. This takes five times as long.
        n_stones: how many stepping stones `add_stones` gives the model.
        precision: what the network computes in, "float32" or "bf16".
    Attributes:
        given_names: names of label values, which come before those of the supports' files; these before the data set's.
        given_colours: colours of label values, as "#e69f00", which come before those of the supports' files.
    Raises:
        InputError: the data set has no grid.
    """

    def __init__(self, segmenter: Segmenter, spec: DatasetSpec | None, options: WholeVolumeOptions, *, augment: bool = False,
                 n_stones: int = 0, precision: str = "float32"):
        if spec is not None and spec.grid is None:
            raise InputError(f"datasets.{spec.name}.grid: got null; predict needs to know what grid the model was trained on")
        self.segmenter, self.spec, self.options, self.augment = segmenter, spec, options, augment
        self.n_stones, self.precision = n_stones, precision
        self.given_names: Mapping[int, str] = {}
        self.given_colours: Mapping[int, str] = {}
        self.supports: list[Support] = []
        self.stones: dict[Path, Volume] = {}

    @classmethod
    def load(cls, snapshot: Path | str, **options: Any) -> Predictor:
        """Return a predictor for a snapshot or a task file. It tells the method, the network and the grid.

        Args:
            snapshot: of a training; or a task file, by its ending .task, whose outlined scans are the supports.
            options: options of configs/base.json5 with other values than there, as `device="cpu"`.
        Raises:
            InputError: the file is missing, damaged or something else, or an option is not allowed.
        """
        if Path(snapshot).suffix == ENDING:
            return cls.of_task(snapshot, method_of_task(snapshot, **options))
        config = as_trained(base_config() | options, read_snapshot(snapshot).config, given=options)
        return cls.made_of(PredictorOptions.of(complete({**config, "reload_model_path": str(snapshot)})))

    @classmethod
    def untrained(cls, model: str = "guided", **options: Any) -> Predictor:
        """Return a predictor for a model that needs no training.

        Args:
            model: "guided", "student" or "registration".
            options: as for `load`.
        Raises:
            InputError: the model needs training, or an option is not allowed.
        """
        return cls.made_of(untrained_method(model, **options))

    @classmethod
    def made_of(cls, options: PredictorOptions, folder: Path | None = None) -> Predictor:
        """Return the predictor of some options: the network as its snapshot was trained, and `precision` not "auto".

        Args:
            folder: as `load_segmenter` takes it.
        Raises:
            InputError: as `load`; or `reload_model_path` is missing, or is given for a model without training.
        """
        device = resolve_device(options.device)
        set_up_process(device, options.deterministic)
        segmenter, _ = load_segmenter(options.model, options.reload_model_path, device, options.whole, encode_whole=True,
                                      folder=folder)
        spec = None if isinstance(segmenter, VolumeSegmenter) else options.spec
        return cls(segmenter, spec, options.whole, augment=options.augment, n_stones=options.model.n_stones,
                   precision=options.model.precision)

    @classmethod
    def of(cls, request: Request) -> Predictor:
        """Return the predictor of a request, with its supports.

        Raises:
            InputError: as `made_of` and `of_task`, or a support cannot be read.
        """
        folder = request.folder
        predictor = cls.made_of(request.method, folder) if request.task is None else \
            cls.of_task(request.task, request.method, folder)
        predictor.given_names = {**predictor.given_names, **request.names}
        for image, labels in request.supports:
            predictor.add_support(channels_of(image, request.channels), labels, fill=request.fill)
        return predictor

    @classmethod
    def of_task(cls, task: Path | str, options: PredictorOptions, folder: Path | None = None) -> Predictor:
        """Return the predictor of a task file, with its outlined scans as supports.

        Args:
            options: with those that the task file stores, but without the path of its weights.
            folder: as `load_segmenter` takes it.
        Raises:
            InputError: the file is missing, damaged, hostile or something else, or its weights do not fit its options.
        """
        with opened(task) as content:
            weights = None if content.weights is None else str(content.weights)
            predictor = cls.made_of(replace(options, reload_model_path=weights), folder)
            predictor.given_names = content.manifest.names
            predictor.given_colours = content.manifest.colours
            for support in content.supports:
                predictor.add_support(*support)
        return predictor

    def add_support(self, image: Given, labels: Image | Path | str, *, fill: bool = False) -> None:
        """Add a support: a scan with its labels. Every value above 0 is segmented in other scans.

        Args:
            image: a file, a folder of DICOM slices, or a nibabel or SimpleITK image; or several of these on the same voxels, the
                channels of one patient, for methods that register. All scans must have the same channels then, in this order.
            labels: whole numbers on the same grid: a file or an image, too. Or a file of segments, as .seg.nrrd, DICOM-SEG or
                RTSTRUCT. A class whose name an earlier support has gets that one's value.
            fill: fill slices that were left out between outlined ones. Else `gaps` of the support names them.
        Raises:
            InputError: they cannot be read, do not belong together, or no label is left on the grid; or there are other channels
                than the method or the first support has.
        """
        scan, label_map, gaps, outlines = read_support(image, labels, self._grid, self._frame, known=self._names_of_files,
                                                       fill_gaps=fill)
        self._expect_channels(scan)
        volume = Volume(f"support {len(self.supports) + 1}", scan.image, label_map, scan.spacing_mm, others=others_of(scan))
        self.supports.append(Support(scan, volume, gaps, outlines))
        self.segmenter.keep(volume)

    def add_stone(self, given: Path | str | Sequence[Path | str]) -> None:
        """Add an unlabelled scan as a stepping stone, for methods that register scans. Other methods do not use it.

        Args:
            given: the path of a file or a folder of DICOM slices, or of each channel. When this scan is segmented, it is no
                stone.
        Raises:
            InputError: it cannot be read, or there is no support yet, or that has other channels.
        """
        if not self.supports:
            raise InputError("no outlined scan yet; add_support comes before add_stone")
        scan = self._read(given)
        self.stones[scan.files[0].resolve()] = Volume(f"stone {len(self.stones) + 1}", scan.image, None, scan.spacing_mm,
                                                      others=others_of(scan))

    def _read(self, given: Given) -> Scan:
        scan = read_scan(given, self._grid, self._frame)
        self._expect_channels(scan)
        return scan

    def _expect_channels(self, scan: Scan) -> None:
        """Raise InputError if a scan has several channels and the method takes one, or others than the first support."""
        name, n_channels = scan.path or scan.name, 1 + len(scan.others)
        if n_channels > 1 and not isinstance(self.segmenter, VolumeSegmenter):
            raise InputError(f"{name}: has {n_channels} channels; allowed: one, as this method registers no scans; guided and "
                             "registration take several")
        if self.supports and n_channels != (expected := 1 + len(self.supports[0].scan.others)):
            raise InputError(f"{name}: got {n_channels} channels, allowed: {expected}, as the first outlined scan has")

    def add_stones(self, scans: Sequence[Path | str | Sequence[Path | str]], chosen: Sequence[Path | str] | None = None) -> None:
        """Add stepping stones: as many of some scans as the method uses, spread evenly. One that cannot be read is left out.

        Args:
            scans: as `add_stone` takes them; those that will be segmented, as a rule.
            chosen: take these in their place, all of them.
        Raises:
            InputError: there is no support yet.
        """
        if not self.supports:
            raise InputError("no outlined scan yet; add_support comes before add_stones")
        spread = [scans[position] for position in stepping_stones(len(scans), (), self.n_stones)]
        for scan in spread if chosen is None else chosen:
            with suppress(InputError):      # it is named when it is segmented
                self.add_stone(scan)

    @property
    def _grid(self) -> Grid | None:
        return None if self.spec is None else self.spec.grid

    @property
    def _frame(self) -> np.ndarray | None:
        """The directions of the axes if the grid does not fix them: those of the first support."""
        return frame_of(self.supports[0].scan.on_grid) if self.supports else None

    @property
    def _names_of_files(self) -> dict[int, str]:
        """The names that the supports' files of outlines give to values."""
        return {value: name for support in reversed(self.supports) for value, name in support.outlines.names.items()}

    @property
    def names(self) -> dict[int, str]:
        """The names of all label values of the supports."""
        values = label_values([label_map_of(support.volume) for support in self.supports])
        known, stored = ({}, {}) if self.spec is None else (self.spec.labels, self.spec.file_values)
        given = {**self._names_of_files, **self.given_names}
        return {value: given.get(value, name) for value, name in label_names(values, known, stored).items()}

    @property
    def colours(self) -> dict[int, str]:
        """The colours of all label values of the supports: those that are given, the others of the palette."""
        of_files = {value: colour for support in reversed(self.supports) for value, colour in support.outlines.colours.items()}
        return colours_of(self.names, {**of_files, **self.given_colours})

    @property
    def outlined_ml(self) -> dict[int, float]:
        """The volume of each label in the outlined scans: the median of those that hold it."""
        volumes = [support.volumes_ml for support in self.supports]
        return {value: median(of_scan[value] for of_scan in volumes if value in of_scan) for value in {*chain(*volumes)}}

    def prepare(self) -> None:
        """Compute now what is computed once for all scans. Otherwise the first call of `segment` does so.

        The processes of a group (`qnet.util.base.distributed.meet`) share out this work: each must call this, with the same
        supports.
        """
        for _ in self.preparing():
            pass

    def preparing(self) -> Iterator[Path]:
        """Do as `prepare`, and yield the path of each stepping stone when it is outlined. All of them must be taken."""
        supports = [support.volume for support in self.supports]
        path_of = {stone.name: path for path, stone in self.stones.items()}
        yield from (path_of[stone.name] for stone in self.segmenter.preparing(
            [(support, range(len(support.image))) for support in supports], list(self.stones.values())))

    def segment(self, scan: Given) -> Segmentation:
        """Segment a scan of any spacing, orientation and size.

        Args:
            scan: a file, a folder of DICOM slices, or a nibabel or SimpleITK image; or its channels, if the supports have some.
                The result is on the voxels of the first.
        Raises:
            InputError: there is no support, or the scan is missing, damaged, constant, has values that are not finite, or has
                other channels than the supports.
        """
        if not self.supports:
            raise InputError("no outlined scan yet; add_support gives one")
        read = self._read(scan)
        agreement, members = self._agreement(read)
        on_grid, names = agreement.mean_probabilities(), self.names
        outlined = [label_map_of(support.volume) for support in self.supports] if self.options.largest_component else None
        label_map = join_on_scan(on_grid, read, outlined)
        kind = np.uint8 if max(names) < 256 else np.int16
        return Segmentation(read, label_map.astype(kind), names, on_grid, agreement, members,
                            self.colours, self.outlined_ml)

    def _agreement(self, scan: Scan) -> tuple[Agreement, list[Member]]:
        """Return the members of a scan, one for each support and, if `augment`, for each augmented copy of the scan.

        What counts is the member of all supports together, if the method has one. The second are those that count of the scan
        itself, without their probabilities.
        """
        image, agreement, kept = scan.image, Agreement(), list[Member]()
        supports = tuple(support.volume for support in self.supports)
        own = None if scan.path is None else scan.path.resolve()
        stones = tuple(stone for path, stone in self.stones.items() if path != own)
        for augmentation in AUGMENTATIONS if self.augment else AUGMENTATIONS[:1]:
            query = Volume("query", augmentation.apply(image), None, scan.spacing_mm,
                           others=tuple(map(augmentation.apply, others_of(scan))))
            try:
                task = Task(query, supports, tuple(self.names), stones)
                members = self.segmenter.members(task)
                joint = self.segmenter.joint(task)
                for member in members:
                    agreement.compare(self._undone(member, augmentation))
                for member in members if joint is None else [joint]:
                    agreement.count(self._undone(member, augmentation), member.confidence)
                    if augmentation is AUGMENTATIONS[0]:
                        kept.append(replace(member, probs={}))
            finally:        # the next scan must never get the features of one that failed
                self.segmenter.release(query)
        return agreement, kept

    def _undone(self, member: Member, augmentation: Augmentation) -> dict[int, np.ndarray]:
        """Return the probabilities of a member on the pixels of the scan as it was, smoothed."""
        return {label: smooth_along_z(augmentation.undo(of_label), self.options.smooth_z)
                for label, of_label in member.probs.items()}


def others_of(scan: Scan) -> tuple[np.ndarray, ...]:
    """Return the (D, H, W) prepared images of a scan's further channels."""
    return tuple(one.image for one in scan.others)


def join_on_scan(probs: Mapping[int, np.ndarray], scan: Scan, outlined: Sequence[np.ndarray] | None) -> np.ndarray:
    """Return the (D, H, W) int16 label map on the scan's own grid.

    Args:
        probs: by label, the (D, H, W) probability on the model's grid.
        outlined: label maps of the supports, to remove stray parts by (`largest_components`); None: none are removed.
    """
    on_scan = ((label, to_scan(class_probs, scan)) for label, class_probs in probs.items())
    label_map = join_classes(on_scan, scan.original.GetSize()[::-1])
    return label_map if outlined is None else largest_components(label_map, outlined)
