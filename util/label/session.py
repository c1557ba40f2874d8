"""The state of a labelled folder. All of it is on disk, in a folder beside the scans, which are never written to.

    label_page/session.json         classes, and what the person decided
    label_page/hand/<scan>.nii.gz   outlines by hand: the scan is being drawn, or is an example once it is done
    label_page/found/<scan>.json    what the computer found, and the name of its label map beside it
    label_page/examples.task        examples from elsewhere, of a task file
    label_page/scans/<scan>.nii.gz  a scan of DICOM slices as NIfTI, for the viewer
    label_page/export/              what the person takes away

Every change is one file that is replaced as a whole, so a process that is killed leaves the state before or after it.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from dataloaders.itk import check_image, labels_on
from dataloaders.nifti import is_plain, read_array, read_nifti, save, write_like
from dataloaders.reading import read_image
from util.base.errors import InputError
from util.base.files import partial_name, remove_partial_files, replacing, write_text
from util.base.inputs import expect_file, read_json
from util.base.locks import LOCK, lock
from util.label.listing import Scan, expect_inside, label_files, list_scans

NAME = "label_page"
VERSION = 1
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2", "#b0b0b0")     # Okabe and Ito
FIRST_CLASS = {"value": 1, "name": "label 1", "colour": COLOURS[0]}        # until the person names one
ORDER = ("found", "correcting", "drawing", "empty", "corrected", "outlined", "accepted", "left out", "unreadable")   # of the list
MAX_LABEL, MAX_NAME = 255, 60      # NiiVue draws bytes


class MissingError(InputError):
    """What a request names is not there."""


class ConflictError(InputError):
    """A request does not fit the present state."""


class Session:
    """The state of a folder. Its methods may be called by several threads.

    Args:
        folder: of the scans.
        pattern: of the file names that are scans, as "image_*".
    Raises:
        InputError: there is no scan, another process is at work on the folder, or a file of the session is damaged.
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, pattern: str = "*"):
        self.folder = folder.absolute()
        self.path = self.folder / NAME
        self.scans = list_scans(self.folder, self.path, pattern)
        _expect_own(self.path)
        self.path.mkdir(exist_ok=True)
        self._held = lock(self.path, f"another server is at work on {folder}; allowed: one server a folder")
        self._lock = threading.RLock()
        self._of_scan: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._checked: set[str] = set()     # scans whose values were read
        self._drawn: dict[str, int] = dict.fromkeys(self.scans, 0)      # how often each scan's drawing was saved
        self._read()

    def close(self) -> None:
        """Give the folder free for another server."""
        self._held.close()

    def _read(self) -> None:
        for name in ("hand", "found", "scans"):
            remove_partial_files(self.path / name)
        kept = read_json(self.path / "session.json") if (self.path / "session.json").exists() else {}
        self.classes = expect_classes(kept.get("classes", [FIRST_CLASS]))
        self._done = self._known(kept.get("done", []), "done")
        self._left_out = self._known(kept.get("left_out", []), "left_out")
        self._hand = {name: self._read_hand(name) for name in self.scans if self.hand_file(name).exists()}
        self._found = {name: found for name in self.scans if (found := self._read_found(name))}
        self._write()

    def _known(self, names: Any, key: str) -> set[str]:
        if not isinstance(names, list):
            raise InputError(f"{self.path / 'session.json'}: {key}: got {names!r}, allowed: a list of names")
        return {name for name in names if name in self.scans}

    def _read_hand(self, name: str) -> bool:
        """Return whether outlines by hand hold a label. Values that another program added get a class."""
        values = np.unique(read_labels(self.image_file(name), self.hand_file(name))).tolist()
        self.classes = with_values(self.classes, values)
        return values != [0]

    def _read_found(self, name: str) -> dict[str, Any] | None:
        with suppress(InputError):      # it is found again
            found = read_json(self.path / f"found/{name}.json")
            if (self.path / "found" / str(found.get("map"))).is_file():
                return found
        return None

    def _write(self) -> None:
        content = {"version": VERSION, "classes": self.classes, "done": sorted(self._done), "left_out": sorted(self._left_out)}
        write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", self.path / "session.json")

    def hand_file(self, name: str) -> Path:
        """Return the path of a scan's outlines by hand."""
        return self.path / f"hand/{name}.nii.gz"

    def found_file(self, name: str) -> Path | None:
        """Return the path of what the computer found; None if there is nothing."""
        return self.path / "found" / self._found[name]["map"] if name in self._found else None

    def outlines_file(self, name: str) -> Path | None:
        """Return the path of a scan's present outlines; None if there are none.

        Raises:
            MissingError: there is no such scan.
        """
        self._expect(name)
        return self.hand_file(name) if name in self._hand else self.found_file(name)

    def scan_file(self, name: str) -> Path:
        """Return the path of a scan as it lies in the folder: what segmenting reads.

        Raises:
            MissingError: there is no such scan.
            InputError: it leads out of the folder.
        """
        self._expect(name)
        return expect_inside(self.scans[name].path, self.folder)

    def image_file(self, name: str) -> Path:
        """Return the path of a scan as a NIfTI file that the page places as this program does; others are written so once.

        The scan is checked as segmenting checks it. One that is refused is unreadable from then on.

        Raises:
            MissingError: there is no such scan.
            InputError: it cannot be read, or leads out of the folder.
        """
        path = self.scan_file(name)
        copy = self.path / f"scans/{name}.nii.gz"
        with self._of_scan[name]:
            if name not in self._checked:
                try:
                    image = check_image(read_image(path), path)
                except InputError as error:
                    if path.exists():       # else it may come back
                        self.scans[name] = replace(self.scans[name], problem=str(error))
                    raise
                if not is_plain(path) and not copy.exists():
                    save(image, copy)
                self.scans[name] = replace(self.scans[name], problem=None)
                self._checked.add(name)
        return expect_file(path if is_plain(path) else copy)

    def _expect(self, name: str) -> None:
        if name not in self.scans:
            raise MissingError(f"scan: got {name!r}, allowed: a scan of {self.folder}")

    def state_of(self, name: str) -> str:
        """Return the state of a scan, a word of ORDER."""
        if self.scans[name].problem:
            return "unreadable"
        if name in self._left_out:
            return "left out"
        done = name in self._done
        if name in self._hand:
            return ("corrected" if done else "correcting") if name in self._found else ("outlined" if done else "drawing")
        return "empty" if name not in self._found else "accepted" if done else "found"

    def overview(self) -> dict[str, Any]:
        """Return all that the page shows, as JSON can hold it: classes, and the scans, those to look at first in front."""
        with self._lock:
            scans = [self._overview_of(name) for name in self.scans]
        return {"folder": str(self.folder), "session": str(self.path), "home": str(Path.home()), "classes": self.classes,
                "scans": sorted(scans, key=_urgency)}

    def _overview_of(self, name: str) -> dict[str, Any]:
        found = self._found.get(name, {})
        return {"name": name, "state": self.state_of(name), "problem": self.scans[name].problem, "drawn": self._drawn[name],
                "found": found.get("map"), "confidence": lowest(found.get("rows", ())), "rows": found.get("rows", [])}

    def supports(self) -> list[tuple[str, Path]]:
        """Return name and outlines of every scan that is an example: outlined or corrected by hand, and done."""
        with self._lock:
            return [(name, self.hand_file(name)) for name in self.scans
                    if self.state_of(name) in ("outlined", "corrected") and self._hand[name]]

    @property
    def task(self) -> Path | None:
        """The task file with examples from elsewhere; None if there is none."""
        path = self.path / "examples.task"
        return path if path.exists() else None

    def set_task(self, task: Path, labels: Mapping[int, tuple[str, str]]) -> None:
        """Take the examples of a task file besides those of the folder.

        Args:
            task: its path.
            labels: name and colour of each of its values. Classes that are there keep theirs.
        Raises:
            InputError: a name or colour is not allowed, or a class of another value has the name.
        """
        known = {one["value"] for one in self.classes if one != FIRST_CLASS}
        new = [{"value": value, "name": name, "colour": colour} for value, (name, colour) in labels.items() if value not in known]
        checked = expect_classes([*(one for one in self.classes if one["value"] in known), *new])
        with self._lock, replacing(self.path / "examples.task") as partial:
            shutil.copyfile(task, partial)
            self.classes = checked
            self._write()

    def waiting(self) -> list[str]:
        """Return the scans that the computer may outline: neither touched by hand nor accepted."""
        with self._lock:
            return [name for name in self.scans if self.state_of(name) in ("empty", "found")]

    def usable(self) -> list[str]:
        """Return the scans that can be read and are not left out."""
        with self._lock:
            return [name for name in self.scans if self.state_of(name) not in ("unreadable", "left out")]

    def draw(self, name: str, content: bytes, drawn: int) -> int:
        """Save a scan's outlines after a stroke. Outlines as the computer found them, or none at all, are no work by hand.

        Args:
            content: of a NIfTI file on the scan's grid.
            drawn: how often its drawing was saved when the page read it.
        Returns:
            How often it was saved now.
        Raises:
            MissingError: there is no such scan.
            ConflictError: the drawing was saved by another page since.
            InputError: the content is no label map of this scan, or has a value that no class has.
        """
        reference = self.image_file(name)
        label_map = self._label_map(content, name, reference)
        self.expect_known_values(label_map)
        with self._of_scan[name]:
            if drawn != self._drawn[name]:
                raise ConflictError(f"{name}: was drawn on in another window since; open the scan again")
            self._keep(name, label_map, reference)
            self._drawn[name] += 1
            return self._drawn[name]

    def _label_map(self, content: bytes, name: str, reference: Path) -> np.ndarray:
        """Return the (D, H, W) label map in the bytes of a NIfTI file, which fits a scan."""
        sent = partial_name(self.path / f"hand/{threading.get_ident()}-{name}.nii")
        sent.parent.mkdir(exist_ok=True)
        try:
            sent.write_bytes(content)
            return read_labels(reference, sent)
        except InputError as error:
            raise InputError(str(error).replace(str(sent), f"outlines of {name}")) from None
        finally:
            sent.unlink(missing_ok=True)

    def _keep(self, name: str, label_map: np.ndarray, reference: Path) -> None:
        if self._is_no_work(name, label_map):
            self.hand_file(name).unlink(missing_ok=True)
            with self._lock:
                self._hand.pop(name, None)
                self._decide(name, self._done - ({name} if name not in self._found else set()))
            return
        write_like(reference, label_map.astype(np.uint8), self.hand_file(name))
        with self._lock:
            was_accepted = name in self._done and name not in self._hand
            self._hand[name] = bool(label_map.any())
            self._decide(name, self._done - ({name} if was_accepted else set()))

    def _is_no_work(self, name: str, label_map: np.ndarray) -> bool:
        found = self.found_file(name)
        return not label_map.any() if found is None else np.array_equal(label_map, read_array(found))

    def _decide(self, name: str, done: set[str]) -> None:
        if done != self._done:
            self._done = done
            self._write()

    def expect_known_values(self, label_map: np.ndarray) -> None:
        """Raise InputError if a label map has a value above 0 that no class has."""
        known = sorted({0, *(one["value"] for one in self.classes)})
        strange = label_map[~np.isin(label_map, known)]
        if strange.size:
            raise InputError(f"outlines: hold the value {strange.min()}, allowed: {', '.join(map(str, known))}")

    def decide(self, name: str, done: bool) -> None:
        """Note that a scan's outlines are as they should be, or that they are not after all.

        Raises:
            MissingError: there is no such scan.
            ConflictError: it has no outlines.
        """
        self._expect(name)
        with self._lock:
            if done and self.state_of(name) in ("empty", "left out", "unreadable"):
                raise ConflictError(f"{name}: is {self.state_of(name)}; allowed: a scan with outlines")
            self._decide(name, self._done | {name} if done else self._done - {name})

    def leave_out(self, name: str, left_out: bool) -> None:
        """Leave a scan out, or take it back. Its outlines stay on disk.

        Raises:
            MissingError: there is no such scan.
        """
        self._expect(name)
        with self._lock:
            self._left_out = self._left_out | {name} if left_out else self._left_out - {name}
            self._write()

    def set_classes(self, classes: Any) -> None:
        """Take names and colours of the classes. A class may be added, none may go.

        Raises:
            InputError: they are not as `expect_classes` asks, or one is missing.
        """
        checked = expect_classes(classes)
        with self._lock:
            if gone := {one["value"] for one in self.classes} - {one["value"] for one in checked}:
                raise InputError(f"classes: {min(gone)} is missing, allowed: to rename and to add")
            self.classes = checked
            self._write()

    def label_files(self) -> dict[str, Path]:
        """Return the files of the folder that may hold outlines, by their path in the folder."""
        return label_files(self.folder, self.path)

    def load(self, name: str, labels: Path) -> None:
        """Take the outlines of a scan from a file. The scan is an example then, and the file, if it is listed, no scan.

        Raises:
            MissingError: there is no such scan.
            ConflictError: the scan has outlines by hand.
            InputError: the file does not fit the scan, or has a value above MAX_LABEL.
        """
        reference = self.image_file(name)
        label_map = read_labels(reference, labels)
        if not label_map.any() or label_map.max() > MAX_LABEL:
            raise InputError(f"{labels}: largest value is {label_map.max()}, allowed in outlines: 1 to {MAX_LABEL}")
        with self._of_scan[name], self._lock:
            if name in self._hand:
                raise ConflictError(f"{name}: has outlines by hand; allowed: a scan without")
            self.classes = with_values(self.classes, np.unique(label_map).tolist())
            self._left_out = (self._left_out | _names_of(labels, self.scans)) - {name}
            self._done = self._done | {name}
            self._write()
            write_like(reference, label_map.astype(np.uint8), self.hand_file(name))
            self._hand[name] = True
            self._drawn[name] += 1

    def target(self, name: str, run: int) -> Path:
        """Return the path where a run writes the label map of a scan."""
        return self.path / f"found/{name}.{run}.nii.gz"

    def next_run(self) -> int:
        """Return the number of a run that no file has."""
        numbers = [int(match[1]) for path in (self.path / "found").glob("*.nii.gz")
                   if (match := re.fullmatch(r".*\.(\d+)\.nii\.gz", path.name))]
        return max(numbers, default=0) + 1

    def add_found(self, name: str, label_map: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take what a run found. The label map is on disk, and counts from here on.

        Args:
            label_map: in the folder of `target`.
            rows: of `Segmentation.numbers`.
        """
        found = {"map": label_map.name, "rows": [dict(row) for row in rows]}
        with self._of_scan[name], self._lock:
            write_text(json.dumps(found, indent=1) + "\n", self.path / f"found/{name}.json")
            earlier, self._found[name] = self.found_file(name), found
        if earlier is not None and earlier != label_map:
            earlier.unlink(missing_ok=True)


def read_labels(image: Path, labels: Path) -> np.ndarray:
    """Return the (D, H, W) int16 label map of a scan.

    Raises:
        InputError: the file is damaged, or does not fit the scan.
    """
    return sitk.GetArrayFromImage(labels_on(_grid_of(image), read_nifti(labels), image, labels))


@lru_cache(maxsize=2)       # of the scan that is drawn on, stroke by stroke
def _grid_of(image: Path) -> sitk.Image:
    """Return an empty image on the grid of a scan."""
    scan = read_nifti(image)
    grid = sitk.Image(scan.GetSize(), sitk.sitkUInt8)
    grid.CopyInformation(scan)
    return grid


def _expect_own(path: Path) -> None:
    """Raise InputError if the folder of the session is there and was not made by this program."""
    if path.is_symlink() or path.exists() and not path.is_dir():
        raise InputError(f"{path}: is there and is no folder; allowed: to move it away")
    held = {item.name for item in path.iterdir()} - {LOCK, ".lock"} if path.is_dir() else set()
    if held and not (path / "session.json").is_file():
        raise InputError(f"{path}: was not made by this program; allowed: to move it away")


def _names_of(labels: Path, scans: Mapping[str, Scan]) -> set[str]:
    return {name for name, scan in scans.items() if scan.path.resolve() == labels.resolve()}


def _urgency(scan: Mapping[str, Any]) -> tuple[int, float]:
    """Return what the list is sorted by: outlines to look through first, the least sure in front; what is done last."""
    confidence = scan["confidence"] if scan["state"] == "found" and scan["confidence"] is not None else 0.0
    return ORDER.index(scan["state"]), confidence


def lowest(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the lowest confidence of a scan's classes; None if none has one."""
    return min((row["confidence"] for row in rows if row.get("confidence") is not None), default=None)


def expect_classes(classes: Any) -> list[dict[str, Any]]:
    """Return classes in the order of their values.

    Raises:
        InputError: they are no list of {value, name, colour}; a value is not in 1 to MAX_LABEL; a name is empty or too long; a
            colour is not as "#e69f00"; or two have the same value or name.
    """
    if not isinstance(classes, list) or not classes or not all(isinstance(one, dict) for one in classes):
        raise InputError("classes: allowed: a list of {value, name, colour}, at least one")
    checked = sorted((_expect_class(one) for one in classes), key=lambda one: one["value"])
    for key in ("value", "name"):
        if len({one[key] for one in checked}) < len(checked):
            raise InputError(f"classes: two have the same {key}; allowed: a {key} once")
    return checked


def _expect_class(one: Mapping[str, Any]) -> dict[str, Any]:
    value, name, colour = one.get("value"), one.get("name"), one.get("colour")
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_LABEL:
        raise InputError(f"classes: value: got {value!r}, allowed: a whole number from 1 to {MAX_LABEL}")
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise InputError(f"classes: name: got {name!r}, allowed: 1 to {MAX_NAME} letters on one line")
    if not isinstance(colour, str) or not re.fullmatch("#[0-9a-fA-F]{6}", colour):
        raise InputError(f"classes: colour: got {colour!r}, allowed: as {COLOURS[0]}")
    return {"value": value, "name": name.strip(), "colour": colour.lower()}


def with_values(classes: Sequence[Mapping[str, Any]], values: Sequence[int]) -> list[dict[str, Any]]:
    """Return the classes, and a new one for each value above 0 that none has."""
    known = {one["value"] for one in classes}
    new = [{"value": value, "name": f"label {value}", "colour": COLOURS[(value - 1) % len(COLOURS)]}
           for value in values if value > 0 and value not in known]
    return sorted((*(dict(one) for one in classes), *new), key=lambda one: one["value"])
