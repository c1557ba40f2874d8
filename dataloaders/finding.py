"""Finds the scans below a folder. Every other file is listed with the reason, so that nothing is left out silently."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qnet.dataloaders.dicom import ENDINGS as SLICE_ENDINGS
from qnet.dataloaders.dicom import NO_SCANS, is_dicom, is_localizer, problem_of, slices_in
from qnet.dataloaders.nifti import files_of as pair_of
from qnet.dataloaders.reading import ending_of, files_of, names_segments, scan_name
from qnet.util.base.errors import InputError, in_utf8
from qnet.util.base.files import made_in
from qnet.util.base.guard import is_same

NOTES = {".txt", ".md", ".rst", ".json", ".jsonl", ".json5", ".yaml", ".yml", ".csv", ".tsv", ".xml", ".html", ".htm", ".pdf",
         ".log", ".bval", ".bvec", ".xls", ".xlsx", ".ods", ".doc", ".docx", ".odt", ".ini", ".cfg", ".toml", ".png", ".jpg",
         ".jpeg", ".gif", ".ctbl", ".label", ".stl", ".svg", ".py", ".sh", ".m", ".r", ".ipynb", ".task", ".sha256", ".md5"}
MAX_NAME_BYTES = 240     # of a scan: files about it have at most 255, with an ending and the number of a run
ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"}


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is no scan.

    Attributes:
        path: of it.
        reason: why.
        may_be_scan: whether it might hold a scan that this program cannot read. False for notes, tables and the like.
    """

    path: Path
    reason: str
    may_be_scan: bool


@dataclass
class Found:
    """What is below a folder.

    Attributes:
        root: the folder.
        names: of the scans, by path: of a file; of a folder with one DICOM series; of the first file of a series where a folder
            has several.
        left_out: the rest.
    """

    root: Path
    names: dict[Path, str] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def root_is_scan(self) -> bool:
        """Whether the root itself is the scan: a file, or a folder with one series and nothing else that is a scan."""
        return list(self.names) == [self.root]


def find_scans(root: Path, output: Path | None = None, *, deep: bool = True) -> Found:
    """Return the scans below a folder, at any depth, and what is left out. See `Found.root_is_scan`.

    Args:
        root: of a file or a folder.
        output: the folder of the results. It may be `root` or lie in it: files that this project wrote are no scans, and
            neither is a folder that holds nothing else.
        deep: take image files in sub-folders too, not DICOM slices alone.
    """
    found = Found(root)
    if root.is_file() or not root.exists():
        found.names[root] = scan_name(root)
        return found
    paths: list[Path] = []
    _look_through(root, found, paths, output, deep, set())
    found.names = _names(root, sorted(paths))
    return found


def _look_through(folder: Path, found: Found, paths: list[Path], output: Path | None, deep: bool,
                  seen: set[Path]) -> None:
    """Add the scans of a folder and of its sub-folders to `paths`, and all that is no scan to `found`."""
    real = folder.resolve()
    if real in seen:        # a link that leads back
        return
    seen.add(real)
    try:
        inside = sorted(item for item in folder.iterdir() if not item.name.startswith("."))
    except OSError as error:
        found.left_out.append(LeftOut(folder, f"cannot be read ({error.strerror})", True))
        return
    is_output = output is not None and is_same(folder, output)
    own = {name for name, _ in made_in(folder)} if folder != found.root or is_output else set()
    files = [item for item in inside if not item.is_dir() and item.name not in own]
    folders = [item for item in inside if item.is_dir() and not (output is not None and is_same(item, output))]
    if not inside:
        found.left_out.append(LeftOut(folder, "is an empty folder", True))
    _sort_files(folder, files, found, paths, deep or folder == found.root)
    for item in folders:
        _look_through(item, found, paths, output, deep, seen)


def _sort_files(folder: Path, files: list[Path], found: Found, paths: list[Path], take_images: bool) -> None:
    values = {file for path in files for file in _values_of(path, files)}
    others = []
    for path in files:
        if path in values:      # of another one of them
            continue
        if not path.is_file():
            found.left_out.append(LeftOut(path, "is a broken link" if path.is_symlink() else "is no file", True))
        elif names_segments(path):
            found.left_out.append(LeftOut(path, "holds outlines, no scan (segments)", False))
        elif ending_of(path):
            if take_images:
                paths.append(path)
            else:
                found.left_out.append(LeftOut(path, "lies in a folder of its own", False))
        else:
            others.append(path)
    slices = [path for path in others if path.name.upper() not in NO_SCANS and is_dicom(path)]
    if not slices and folder != found.root and any(path.suffix.lower() in SLICE_ENDINGS for path in others):
        paths.append(folder)        # its slices are damaged; the error comes when it is read, in one line
        return
    if slices:
        alone = folder != found.root or not any(map(ending_of, files))
        _sort_slices(folder, found, paths, alone)
    for path in others:
        if path not in slices:
            found.left_out.append(_no_scan(path))


def _values_of(path: Path, files: Collection[Path]) -> Iterator[Path]:
    """Yield the files that hold the values of an image whose header has a file of its own."""
    ending = ending_of(path)
    if ending in (".hdr", ".hdr.gz") and (other := pair_of(path)[1]) in files:
        yield other
    if ending in (".mhd", ".nhdr"):
        try:
            yield from files_of(path)[1:]
        except (InputError, OSError):       # it is named when it is read
            return


def _no_scan(path: Path) -> LeftOut:
    ending = path.suffix.lower()
    if path.name.upper() in NO_SCANS:
        return LeftOut(path, "is an index, no scan", False)
    if ending in NOTES or (not ending and path.name.isupper()):       # README, LICENSE
        return LeftOut(path, "is no scan, by its name", False)
    if ending in ARCHIVES:
        return LeftOut(path, "is an archive; scans in it are not read before it is unpacked", True)
    return LeftOut(path, "is of no kind that can be read: NIfTI, NRRD, MetaImage, MGH, DICOM", True)


def _sort_slices(folder: Path, found: Found, paths: list[Path], alone: bool) -> None:
    """Add the series of a folder that has DICOM files.

    Args:
        alone: the folder may stand for a series, as nothing else in it is a scan.
    """
    series, others = slices_in(folder)
    damaged = [path for path, reason in others.items() if is_dicom(path) and reason.startswith("cannot be read")]
    if not series and damaged and folder != found.root:     # the error comes when it is read, in one line
        paths.append(folder)
        return
    scans: list[Path] = []
    for slices in series.values():
        first = min(one.path for one in slices)
        what = f"{slices[0].title}, {len(slices)} files from {first.name} on"
        if is_localizer(slices):
            found.left_out.append(LeftOut(first, f"{what}: is a localizer, no scan", False))
        elif len(series) > 1 and (problem := problem_of(slices, folder)):
            found.left_out.append(LeftOut(first, f"{what}: {problem}", True))
        else:
            scans.append(first)
    as_folder = len(scans) == 1 and alone
    paths += [folder] if as_folder else scans
    found.left_out += [LeftOut(path, reason, path in damaged) for path, reason in others.items()
                       if is_dicom(path) and not (as_folder and path in damaged)]


def _names(root: Path, paths: list[Path]) -> dict[Path, str]:
    """Return the name of each scan. A scan in `root` has its own name.

    Another scan has the name of the folder in `root` that holds it. If that folder holds several, each of them is named by all
    folders that lead to it, and its own name.
    """
    below: Mapping[str, list[Path]] = defaultdict(list)
    for path in paths:
        parts = path.relative_to(root).parts
        below[parts[0] if parts else ""].append(path)
    names = {}
    for top, inside in below.items():
        for path in inside:
            parts = path.relative_to(root).parts
            if len(parts) < 2:
                names[path] = scan_name(path)
            else:
                names[path] = in_utf8(top if len(inside) == 1 else "_".join([*parts[:-1], scan_name(path)]))
    return {path: names[path] for path in paths}


def name_problem(name: str) -> str | None:
    """Return why no file can be named after a scan; None if one can."""
    n_bytes = len(name.encode())
    if n_bytes <= MAX_NAME_BYTES:
        return None
    return f"its name has {n_bytes} bytes without the ending, allowed: {MAX_NAME_BYTES}, as results are named after it"


def same_names(names: Mapping[Path, str]) -> list[Path]:
    """Return the scans that share the first name which several have; none if all differ."""
    twice = next((name for name, n in Counter(names.values()).items() if n > 1), None)
    return [path for path, name in names.items() if name == twice] if twice is not None else []
