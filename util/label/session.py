"""The state of a labelled folder. All of it is on disk, in a folder beside the scans, which are never written to.

    label_page/session.json         classes, and what the person decided
    label_page/hand/<scan>.nii.gz   outlines by hand: the scan is being drawn, or is an example once it is done
    label_page/hand/<scan>.json     which slices of them a person made, and how often they were saved
    label_page/found/<scan>.json    what the computer found, and the name of its label map beside it
    label_page/examples.task        examples from elsewhere, of a task file
    label_page/scans/<scan>.nii.gz  a scan of DICOM slices as NIfTI, for the viewer
    label_page/pictures/            small pictures of the scans
    label_page/likeness.json        how alike the scans are (`qnet.util.label.advice`)
    label_page/export/              what the person takes away

Every change is one file that is replaced as a whole, so a process that is killed leaves the state before or after it. What is on
disk comes first: a change that could not be written has not been made in memory either.

The folder is private and its files are opened from its descriptor (`qnet.util.base.own_folder`). Libraries read and write in a
work folder in it, from which whole files are taken.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from msgspec import to_builtins

from qnet.dataloaders.nifti import read_header, write_like
from qnet.dataloaders.outlines.name_tables import tables_beside
from qnet.util.base.classes import MAX_DRAWN, MAX_NAME
from qnet.util.base.errors import InputError, in_utf8
from qnet.util.base.inputs import LIMITS, SMALL
from qnet.util.base.own_folder import OwnFolder
from qnet.util.label.images import Images, MissingError, file_name
from qnet.util.label.listing import Scan, expect_inside, label_files, list_scans
from qnet.util.label.on_scan import read_labels, read_outlines
from qnet.util.label.stored import (
    FIRST_CLASS,
    Decisions,
    Hand,
    expect_classes,
    found_name,
    found_to_json,
    next_class,
    picture_name,
    read_decisions,
    read_found,
    read_hand,
    with_names,
    with_values,
)
from qnet.util.label.strokes import Changes
from qnet.util.label.workplace import Workplace
from qnet.util.predict.correction import LABEL_PAGE

STATE, TASK = "session.json", "examples.task"
ORDER = ("found", "correcting", "drawing", "empty", "corrected", "outlined", "accepted", "left out", "unreadable")   # of the list


class ConflictError(InputError):
    """A request does not fit the present state."""


class Session:
    """The state of a folder. Its methods may be called by several threads.

    Args:
        folder: of the scans.
        pattern: of the file names that are scans, as "image_*".
    Attributes:
        own: the folder of the session.
    Raises:
        InputError: there is no scan, another process is at work on the folder, or session.json is damaged.
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, pattern: str = "*"):
        self.folder = folder.absolute()
        self.path = self.folder / LABEL_PAGE
        self.scans = list_scans(self.folder, self.path, pattern)
        self._lock = threading.RLock()
        self._of_scan: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._notes: dict[str, Hand] = {name: Hand() for name in self.scans}
        self._last: _Present | None = None
        self._problems: dict[str, str] = {}     # of outlines by hand that cannot be read
        with ExitStack() as stack:
            self._open(folder, stack)
            self._read()
            self._held = stack.pop_all()

    def _open(self, folder: Path, stack: ExitStack) -> None:
        self.own = OwnFolder(self.path)
        stack.callback(self.own.close)
        if not self.own.is_empty() and not self.own.has(STATE):
            raise InputError(f"{self.path}: was not made by this program; allowed: to move it away")
        self.own.make_private()
        stack.enter_context(self.own.lock(f"another server is at work on {folder}; allowed: one server for each folder"))
        self._decisions = Decisions()
        if self.own.has(STATE):
            self._decisions = read_decisions(self.own.read(STATE, LIMITS.n_bytes), str(self.path / STATE))
        else:       # before anything else is in the folder, which is then known to be ours
            self.own.write(STATE, self._decisions.to_json())
        folders = [self.own, *map(self.own.inner, ("hand", "found", "scans", "pictures", "export"))]
        _, self._hand_folder, self._found_folder, copies, pictures, self.export_folder = folders
        for inner in folders[1:]:
            stack.callback(inner.close)
        for one in folders:
            one.remove_leftovers()
        self._place = Workplace(stack.enter_context(self.own.work()))
        self._images = Images(self.folder, self.scans, copies, pictures, self._place)

    def close(self) -> None:
        """Give the folder free for another server."""
        self._held.close()

    def _read(self) -> None:
        self._hand: dict[str, bool] = {}        # whether outlines by hand hold a label
        for name in self.scans:
            self._notes[name] = self._read_notes(name)
            try:
                if self._hand_folder.has(file_name(name)):
                    self._hand[name] = self._read_hand(name)
            except InputError as error:     # the others can be worked on
                self._problems[name] = f"{error}; allowed: to move the file away"
        self._found = {name: found for name in self.scans if (found := self._read_found(name))}

    def _read_hand(self, name: str) -> bool:
        """Return whether outlines by hand hold a label. Values that another program added get a class."""
        with self._place.lend(self._hand_folder, file_name(name)) as path:
            values = np.unique(read_labels(self.image_file(name), path)).tolist()
        if not 0 <= values[0] <= values[-1] <= MAX_DRAWN:
            raise InputError(f"{self.hand_file(name)}: holds the values {values[0]} to {values[-1]}, allowed: 0 to {MAX_DRAWN}")
        self._change(classes=with_values(self._decisions.classes, values))
        return values != [0]

    def _read_notes(self, name: str) -> Hand:
        with suppress(InputError, OSError):     # then all slices count as made by a person
            if self._hand_folder.has(f"{name}.json"):
                file, content = f"{name}.json", self._hand_folder.read(f"{name}.json", SMALL.n_bytes)
                has_map = self._hand_folder.has(file_name(name))
                return read_hand(content, str(self._hand_folder.path / file),
                                 sha256_of(self._hand_folder.read(file_name(name))) if has_map else "")
        return Hand()

    def _read_found(self, name: str) -> dict[str, Any] | None:
        with suppress(InputError, OSError):      # it is found again
            file = f"{name}.json"
            found = read_found(self._found_folder.read(file, SMALL.n_bytes), str(self._found_folder.path / file), name)
            if self._found_folder.has(found["map"]):
                return found
        return None

    def _change(self, **changes: Any) -> None:
        """Change what the person decided: on disk, then in memory."""
        with self._lock:
            changed = replace(self._decisions, **changes)
            if changed != self._decisions:
                self.own.write(STATE, changed.to_json())
                self._decisions = changed

    @property
    def classes(self) -> list[dict[str, Any]]:
        """The classes, each with "value", "name" and "colour", in the order of their values."""
        return [dict(one) for one in self._decisions.classes]

    def hand_file(self, name: str) -> Path:
        """Return the path of a scan's outlines by hand, for people."""
        return self._hand_folder.path / file_name(name)

    def outlines(self, name: str) -> bytes | None:
        """Return the file of a scan's present outlines; None if there are none.

        Raises:
            MissingError: there is no such scan.
        """
        self._expect(name)
        with self._of_scan[name]:
            place = self._outlines_place(name)
            return None if place is None else place[0].read(place[1])

    def _outlines_place(self, name: str) -> tuple[OwnFolder, str] | None:
        if name in self._hand:
            return self._hand_folder, file_name(name)
        return (self._found_folder, self._found[name]["map"]) if name in self._found else None

    def work_folder(self) -> AbstractContextManager[Path]:
        """Yield a folder as `Workplace.folder` does."""
        return self._place.folder()

    def told(self, text: str) -> str:
        """Return a text as `Workplace.told` does."""
        return self._place.told(text)

    def scan_file(self, name: str) -> Path:
        """Return the path of a scan as it lies in the folder. Raises as `Images.scan_file`."""
        return self._images.scan_file(name)

    def image_file(self, name: str) -> Path:
        """Return the path of a scan as the page has it. Raises as `Images.image_file`."""
        return self._images.image_file(name)

    def prepare(self, name: str) -> None:
        """Make a scan ready for the page. Raises as `Images.prepare`."""
        self._images.prepare(name)

    def picture(self, name: str) -> bytes | None:
        """Return the small picture of a scan, PNG, with the outlines if these are the computer's; None if there is none yet.

        Raises:
            MissingError: there is no such scan.
        """
        self._expect(name)
        place = self._picture_place(name)
        return None if place is None else place[0].read(place[1], SMALL.n_bytes)

    def _picture_place(self, name: str) -> tuple[OwnFolder, str] | None:
        if name in self._found and name not in self._hand:
            picture = picture_name(self._found[name]["map"])
            if self._found_folder.has(picture):
                return self._found_folder, picture
        return self._images.picture_place(name)

    def _expect(self, name: str) -> None:
        if name not in self.scans:
            raise MissingError(f"scan: got {name!r}, allowed: a scan of {self.folder}")

    def state_of(self, name: str) -> str:
        """Return the state of a scan, a word of ORDER."""
        if self._problem_of(name):
            return "unreadable"
        if name in self._decisions.left_out:
            return "left out"
        done = name in self._decisions.done
        if name in self._hand:
            return ("corrected" if done else "correcting") if name in self._found else ("outlined" if done else "drawing")
        return "empty" if name not in self._found else "accepted" if done else "found"

    def _problem_of(self, name: str) -> str | None:
        return self.scans[name].problem or self._problems.get(name)

    def overview(self) -> dict[str, Any]:
        """Return all that the page shows, as JSON can hold it.

        They are the classes, whether a person or a file named them, the class that may be added next, and the scans, those to
        look at first in front.
        """
        with self._lock:
            scans = [self._overview_of(name) for name in self.scans]
        places = {"folder": self.folder, "session": self.path, "home": Path.home()}
        return {**{key: in_utf8(str(place)) for key, place in places.items()}, "classes": self.classes,
                "named": self._decisions.classes != (FIRST_CLASS,), "next_class": next_class(self.classes), "max_name": MAX_NAME,
                "scans": sorted(scans, key=_urgency)}

    def _overview_of(self, name: str) -> dict[str, Any]:
        found = self._found.get(name, {})
        return {"name": name, "state": self.state_of(name), "problem": self._problem_of(name), "drawn": self._notes[name].saved,
                "slices": to_builtins(self._notes[name].slices), "found": found.get("map"),
                "confidence": lowest(found.get("rows", ())), "rows": found.get("rows", []),
                "made": found.get("made", {}), "flagged": name in self._decisions.flagged,
                "picture": None if (place := self._picture_place(name)) is None else place[1]}

    def supports(self) -> list[str]:
        """Return the scans that are examples: outlined or corrected by hand, and done."""
        with self._lock:
            return [name for name in self.scans
                    if self.state_of(name) in ("outlined", "corrected") and self._hand[name]]

    def has_task(self) -> bool:
        """Return whether there is a task file with examples from elsewhere.

        Raises:
            InputError: a link, a folder or a device is in its place.
        """
        return self.own.has(TASK)

    def lend_task(self, folder: Path) -> Path:
        """Return the path of that task file in a work folder."""
        return self.own.lend(TASK, folder / TASK)

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
        with self._lock, self.work_folder() as work:
            shutil.copyfile(task, work / TASK)
            self._change(classes=tuple(checked))        # first: a class without examples does no harm
            self.own.take(work / TASK, TASK)

    def waiting(self) -> list[str]:
        """Return the scans that the computer may outline: neither touched by hand nor accepted."""
        with self._lock:
            return [name for name in self.scans if self.state_of(name) in ("empty", "found")]

    def usable(self) -> list[str]:
        """Return the scans that can be read and are not left out."""
        with self._lock:
            return [name for name in self.scans if self.state_of(name) not in ("unreadable", "left out")]

    def draw(self, name: str, content: bytes, drawn: int) -> int:
        """Save a scan's outlines as a whole: those of another program, all of whose slices are as they should be.

        Args:
            content: of a NIfTI file on the scan's grid.
            drawn: how often its drawing was saved when it was read.
        Returns:
            How often it was saved now.
        Raises:
            MissingError: there is no such scan.
            ConflictError: the drawing was saved by another page since.
            InputError: the content is no label map of this scan, or has a value that no class has.
        """
        reference = self.image_file(name)
        label_map = self._label_map(content, name, reference).astype(np.uint8)
        self.expect_known_values(label_map)
        with self._of_scan[name]:
            self._expect_sound(name)
            self._expect_latest(name, drawn)
            return self._keep(name, label_map, reference, Hand(drawn + 1))

    def change(self, name: str, changes: Changes, note: Hand) -> int:
        """Save a stroke. Outlines as the computer found them, or none at all, are no work by hand unless a slice was looked at.

        Args:
            note: which slices a person made now, the name of the stroke, and how often the drawing was saved before it. A stroke
                that is sent again is not refused.
        Returns:
            How often it was saved now.
        Raises:
            as `draw`.
        """
        reference = self.image_file(name)
        self.expect_known_values(changes.values)
        with self._of_scan[name]:
            self._expect_sound(name)
            if note.stroke and self._notes[name].stroke == note.stroke:
                return self._notes[name].saved
            self._expect_latest(name, note.saved)
            label_map = changes.applied(self._present(name, reference).label_map)
            return self._keep(name, label_map, reference, replace(note, saved=note.saved + 1))

    def present(self, name: str, drawn: int) -> tuple[np.ndarray, Hand]:
        """Return a scan's present outlines, (D, H, W) uint8, not to be written to, and what is known of them.

        Raises:
            as `draw`.
        """
        reference = self.image_file(name)
        with self._of_scan[name]:
            self._expect_sound(name)
            self._expect_latest(name, drawn)
            note = self._notes[name]
            return self._present(name, reference).label_map, note if name in self._hand else replace(note, slices={})

    def found(self, name: str) -> np.ndarray:
        """Return what the computer outlined in a scan, (D, H, W) uint8, not to be written to; zeros if it did not.

        Raises:
            MissingError: there is no such scan.
            InputError: it cannot be read.
        """
        reference = self.image_file(name)
        with self._of_scan[name]:
            self._expect_sound(name)
            return self._present(name, reference).found

    def saved(self, name: str) -> int:
        """Return how often a scan's drawing was saved. Raises MissingError if there is no such scan."""
        self._expect(name)
        return self._notes[name].saved

    def has_found(self, name: str) -> bool:
        """Return whether the computer outlined a scan."""
        return name in self._found

    def _expect_latest(self, name: str, drawn: int) -> None:
        if drawn != self._notes[name].saved:
            raise ConflictError(f"{name}: was drawn on in another window since; open the scan again")

    def _present(self, name: str, reference: Path) -> _Present:
        """Return a scan's present outlines. Those of the scan that is drawn on stay in memory, stroke by stroke."""
        key = (name, self._notes[name].saved, self._found.get(name, {}).get("map"))
        last = self._last
        if last is None or last.key != key:
            found = self._array(reference, self._found_folder, key[2])
            by_hand = self._array(reference, self._hand_folder, file_name(name)) if name in self._hand else found
            last = self._last = _Present(key, by_hand, found)
        return last

    def _array(self, reference: Path, folder: OwnFolder, file: str | None) -> np.ndarray:
        if file is None:
            return np.zeros(read_header(reference).get_data_shape()[::-1], np.uint8)
        with self._place.lend(folder, file) as path:
            return read_labels(reference, path).astype(np.uint8)

    def _expect_sound(self, name: str) -> None:
        """Raise ConflictError if outlines by hand are there that cannot be read: they are not written over."""
        if name in self._problems:
            raise ConflictError(f"{name}: {self._problems[name]}")

    def _label_map(self, content: bytes, name: str, reference: Path) -> np.ndarray:
        """Return the (D, H, W) label map in the bytes of a NIfTI file, which fits a scan."""
        with self.work_folder() as work:
            sent = work / "sent.nii"
            sent.write_bytes(content)
            try:
                return read_labels(reference, sent)
            except InputError as error:
                raise InputError(str(error).replace(str(sent), f"outlines of {name}")) from None

    def _keep(self, name: str, label_map: np.ndarray, reference: Path, note: Hand) -> int:
        """Save outlines by hand, and return how often they were saved. A decision that no longer holds is taken back first."""
        before = self._present(name, reference)
        if not note.slices and np.array_equal(label_map, before.found):
            self._take_back(name, name not in self._found)
            self._note(name, replace(note, slices=None), "")
            self._hand_folder.remove(file_name(name))
            with self._lock:
                self._hand.pop(name, None)
        else:
            self._take_back(name, name not in self._hand)       # accepted was what is no longer there
            self._save_hand(name, label_map, reference, note)
        self._last = _Present((name, note.saved, before.key[2]), label_map, before.found)
        return note.saved

    def _take_back(self, name: str, is_void: bool) -> None:
        if is_void:
            with self._lock:
                self._change(done=self._decisions.done - {name})

    def _save_hand(self, name: str, label_map: np.ndarray, reference: Path, note: Hand) -> None:
        with self.work_folder() as work:
            made, about = work / file_name(name), work / f"{name}.json"
            write_like(reference, label_map.astype(np.uint8), made)
            about.write_bytes(note.to_json(sha256_of(made.read_bytes())))       # both are written before one of them counts
            self._hand_folder.take(made, made.name)
            self._hand_folder.take(about, about.name)
        with self._lock:
            self._hand[name], self._notes[name] = bool(label_map.any()), note

    def _note(self, name: str, note: Hand, sha256: str) -> None:
        self._hand_folder.write(f"{name}.json", note.to_json(sha256))
        self._notes[name] = note

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
            self._change(done=self._decisions.done | {name} if done else self._decisions.done - {name})

    def leave_out(self, name: str, left_out: bool) -> None:
        """Leave a scan out, or take it back. Its outlines stay on disk.

        Raises:
            MissingError: there is no such scan.
        """
        self._expect(name)
        with self._lock:
            self._change(left_out=self._decisions.left_out | {name} if left_out else self._decisions.left_out - {name})

    def flag(self, name: str, flagged: bool) -> None:
        """Mark a scan for a second look, or take that back.

        Raises:
            MissingError: there is no such scan.
        """
        self._expect(name)
        with self._lock:
            self._change(flagged=self._decisions.flagged | {name} if flagged else self._decisions.flagged - {name})

    def set_classes(self, classes: Any) -> None:
        """Take names and colours of the classes. One may be added, and one may go that no outlines hold.

        Raises:
            InputError: they are not as `expect_classes` asks, or one that is missing is held.
        """
        checked = expect_classes(classes)
        gone = {one["value"] for one in self.classes} - {one["value"] for one in checked}
        for name in self.scans if gone else ():
            if held := gone & self._values_of(name):
                raise InputError(f"classes: {min(held)} is in the outlines of {name}; allowed: to delete a class that no "
                                 "outlines hold")
        if gone and self.has_task():
            raise InputError(f"classes: {min(gone)} is missing; allowed with a task file: to rename classes and to add some")
        with self._lock:
            self._change(classes=tuple(checked))

    def _values_of(self, name: str) -> set[int]:
        """Return the values in a scan's outlines by hand and by the computer. Those that cannot be read hold all."""
        if name in self._problems:
            return {one["value"] for one in self.classes}
        if name not in self._hand and name not in self._found:
            return set()
        reference = self.image_file(name)
        with self._of_scan[name]:
            present = self._present(name, reference)
            return {int(value) for array in (present.label_map, present.found) for value in np.unique(array)}

    def label_files(self) -> dict[str, Path]:
        """Return the files of the folder that may hold outlines, by their path in the folder."""
        return label_files(self.folder, self.path)

    def load(self, name: str, labels: Path) -> None:
        """Take the outlines of a scan from a file. The scan is an example then, and the file, if it is listed, no scan.

        Names and colours of the file are those of classes that are new. Classes of the same name have the page's value.

        Raises:
            MissingError: there is no such scan.
            ConflictError: the scan has outlines by hand.
            InputError: the file does not fit the scan, or has a value above MAX_DRAWN.
        """
        reference = self.image_file(name)
        known = {one["value"]: one["name"] for one in self.classes if one != FIRST_CLASS}
        for table in tables_beside(labels):     # a link beside a file of the folder must not show what is elsewhere
            if table.parent == labels.parent and labels.resolve().is_relative_to(self.folder.resolve()):
                expect_inside(table, self.folder)
        outlines = read_outlines(reference, labels, self.scans[name].path, known)
        label_map = sitk.GetArrayFromImage(outlines.labels)
        if not label_map.any() or label_map.max() > MAX_DRAWN:
            raise InputError(f"{labels}: largest value is {label_map.max()}, allowed in outlines: 1 to {MAX_DRAWN}")
        with self._of_scan[name], self._lock:
            self._expect_sound(name)
            if name in self._hand:
                raise ConflictError(f"{name}: has outlines by hand; allowed: a scan without")
            self._change(classes=with_values(with_names(self._decisions.classes, outlines.names, outlines.colours),
                                             np.unique(label_map).tolist()))
            self._save_hand(name, label_map, reference, Hand(self._notes[name].saved + 1))
            self._change(left_out=(self._decisions.left_out | _names_of(labels, self.scans)) - {name},
                         done=self._decisions.done | {name})

    def take_found(self, name: str, labels: Path, rows: Sequence[Mapping[str, Any]],
                   made: Mapping[str, str] | None = None) -> bool:
        """Take what `qnet segment` found for a scan, as if a run of the page had found it. Outlines that are there stay.

        Args:
            labels: a label map on the scan's grid.
            rows, made: as `add_found` takes them.
        Returns:
            Whether the scan had no outlines, so that these count.
        Raises:
            MissingError: there is no such scan.
            InputError: the file does not fit the scan, or has a value above MAX_DRAWN; or the rows are none.
        """
        reference = self.image_file(name)
        label_map = read_labels(reference, labels)
        if label_map.max() > MAX_DRAWN:
            raise InputError(f"{labels}: largest value is {label_map.max()}, allowed in outlines: 1 to {MAX_DRAWN}")
        if self.state_of(name) != "empty":
            return False
        names = {row["label"]: row["label_name"] for row in rows}
        self._change(classes=with_values(with_names(self._decisions.classes, names, {}), np.unique(label_map).tolist()))
        target = self.target(name, self.next_run())
        write_like(reference, label_map.astype(np.uint8), target)
        self.add_found(name, target, rows, made)
        return True

    def target(self, name: str, run: int) -> Path:
        """Return the path where a run writes the label map of a scan: in the work folder, from which `add_found` takes it."""
        folder = self._place.path / f"run_{run}"
        folder.mkdir(exist_ok=True)
        return folder / found_name(name, run)

    def next_run(self) -> int:
        """Return the number of a run that no file has."""
        numbers = [int(match[1]) for file in self._found_folder.names()
                   if (match := re.fullmatch(r".*\.(\d{1,9})\.nii\.gz", file))]
        return max(numbers, default=0) + 1

    def add_found(self, name: str, label_map: Path, rows: Sequence[Mapping[str, Any]],
                  made: Mapping[str, str] | None = None) -> None:
        """Take what a run found. It counts from here on.

        Args:
            label_map: as from `target`. Its picture may lie beside it.
            rows: of `Segmentation.numbers`.
            made: what the outlines were made of, for the person, by name of the fact.
        Raises:
            InputError: the rows are none.
        """
        content = found_to_json(label_map.name, rows, made)
        found = read_found(content, name, name)
        with self._of_scan[name]:
            self._take_back(name, name not in self._hand and name not in self._found)      # of nothing: it was not looked at
            self._found_folder.take(label_map, label_map.name)
            picture = label_map.with_name(picture_name(label_map.name))
            if picture.is_file():
                self._found_folder.take(picture, picture.name)
            self._found_folder.write(f"{name}.json", content)
            earlier = self._found.get(name, found)["map"]
            self._found[name] = found
            if earlier != found["map"]:
                self._found_folder.remove(earlier)
                self._found_folder.remove(picture_name(earlier))


@dataclass(frozen=True)
class _Present:
    """A scan's outlines in memory.

    Attributes:
        key: its name, how often its drawing was saved, and the name of what was found.
        label_map, found: the present ones, and those by the computer, (D, H, W) uint8.
    """

    key: tuple[str, int, str | None]
    label_map: np.ndarray
    found: np.ndarray


def sha256_of(content: bytes) -> str:
    """Return the checksum of a file's content."""
    return hashlib.sha256(content).hexdigest()


def _names_of(labels: Path, scans: Mapping[str, Scan]) -> set[str]:
    return {name for name, scan in scans.items() if scan.path.resolve() == labels.resolve()}


def _urgency(scan: Mapping[str, Any]) -> tuple[int, float]:
    """Return what the list is sorted by: outlines to look through first, the least sure in front; what is done last."""
    confidence = scan["confidence"] if scan["state"] == "found" and scan["confidence"] is not None else 0.0
    return ORDER.index(scan["state"]), confidence


def lowest(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the lowest confidence of a scan's classes; None if none has one."""
    return min((row["confidence"] for row in rows if row.get("confidence") is not None), default=None)
