"""Make PHANTOM: small volumes that look like abdominal MRI, in the folder layout of CHAOST2.

    python -m qnet.data.phantom

Every case has a liver (1), right kidney (2), left kidney (3) and spleen (4) among tissues without a label. Slices run
from inferior to superior, with the spine at the top. The seed determines everything. `phantom.json` records the
parameters. A dataset with the same parameters is kept.
"""

# Lengths are in mm, in array order (z to superior, y to anterior, x to the patient's left), from the centre of the volume.

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy import fft, ndimage
from tqdm import tqdm

if not __package__:     # run as a file: before packages of the same names elsewhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qnet.data.supervoxels.felzenszwalb import generate_supervoxels
from qnet.dataloaders.nifti import write_like
from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.files import LIST, replacing, write_text
from qnet.util.base.guard import claim
from qnet.util.base.inputs import SMALL, parse_json, read_small

VERSION = 1                        # increase it if the same parameters give other voxels
FIELD_MM = (154.0, 320.0, 320.0)   # whatever the number of voxels
EDGE_MM = 3.0                      # width of the transition between tissues
N_LABELS, MIN_SLICES = 4, 4        # the least number of slices of a label in a case
DEFAULTS = {"cases": 10, "size": 128, "slices": 20, "seed": 0}      # of those, configs/ have grid and n_sv
MIN_SIZE = 1000                    # voxels of the smallest supervoxel then, in proportion with other sizes
MIN_SIZE_SHARE = MIN_SIZE / (DEFAULTS["slices"] * DEFAULTS["size"] ** 2)
LIMITS = {"cases": (1, 1000), "size": (32, 256), "slices": (10, 60), "seed": (0, 2**32 - 1)}

Point = tuple[float, float, float]
Ellipsoid = tuple[Point, Point]    # centre, radii
Range = tuple[float, float]


@dataclass(frozen=True)
class Tissue:
    """Joined ellipsoids, ellipsoids cut out of them, and the ranges of a case's appearance."""

    kind: str                          # tissues of one kind look alike within a case
    intensity: Range
    grain_mm: Range                    # wavelength of the texture
    grain: Range                       # its standard deviation, relative to the intensity
    parts: tuple[Ellipsoid, ...]
    cuts: tuple[Ellipsoid, ...] = ()
    vessels: float = 0.0               # relative brightness of spots at the peaks of a random pattern
    label: int = 0
    capsule_mm: float = 0.0            # of dark fat around it
    shift_mm: float = 4.0              # standard deviation of the position


def _both_sides(*parts: Ellipsoid) -> tuple[Ellipsoid, ...]:
    return parts + tuple(((z, y, -x), radii) for (z, y, x), radii in parts)


INF = np.inf
# Painted in this order, later over earlier, after loops of bowel. The organs stay inside the wall of the abdomen.
ORGANS = (
    Tissue("heart", (160, 400), (14, 30), (0.12, 0.20), (((98, 38, 25), (45, 45, 55)),)),
    Tissue("stomach", (200, 800), (10, 22), (0.06, 0.16), (((32, 24, 52), (36, 30, 32)), ((8, 38, 30), (18, 20, 30)))),
    Tissue("pancreas", (280, 480), (7, 10), (0.10, 0.18), (((2, 4, 18), (13, 10, 42)),)),
    Tissue("liver", (270, 430), (9, 13), (0.05, 0.09), (((6, 4, -74), (62, 72, 54)), ((32, 42, -12), (32, 32, 58))),
           (((-60, 0, -40), (46, 70, 36)), ((-6, -48, -46), (40, 34, 26))), label=1, capsule_mm=2, vessels=0.45),
    Tissue("gallbladder", (700, 1000), (20, 30), (0.02, 0.04), (((-10, 34, -46), (20, 17, 13)),)),
    Tissue("spleen", (430, 760), (20, 40), (0.03, 0.06), (((26, -18, 95), (44, 47, 28)),),
           (((16, 0, 58), (46, 40, 25)),), label=4, capsule_mm=3),
    Tissue("kidney", (450, 800), (11, 15), (0.10, 0.16), (((-26, -38, -68), (46, 26, 25)),),
           (((-26, -30, -43), (16, 8, 12)),), label=2, capsule_mm=5),
    Tissue("kidney", (450, 800), (11, 15), (0.10, 0.16), (((-12, -40, 66), (46, 26, 25)),),
           (((-12, -32, 41), (16, 8, 12)),), label=3, capsule_mm=5),
)
FRAME = (
    Tissue("muscle", (110, 170), (8, 14), (0.08, 0.14),
           _both_sides(((0, -74, 33), (INF, 18, 27)), ((-80, -44, 29), (80, 14, 13)))),
    Tissue("spine", (150, 280), (16, 24), (0.08, 0.16), (((0, -44, 0), (INF, 17, 23)), ((0, -80, 0), (INF, 22, 6)))),
    Tissue("spinal canal", (700, 1000), (8, 12), (0.03, 0.08), (((0, -67, 0), (INF, 8, 10)),)),
    Tissue("aorta", (60, 750), (20, 30), (0.03, 0.08), (((0, -18, 8), (INF, 9, 9)),)),
    Tissue("vena cava", (150, 500), (20, 30), (0.03, 0.08), (((0, -16, -18), (INF, 7, 11)),)),
)


def spacing_mm(shape: tuple[int, int, int]) -> tuple[float, ...]:
    """Return the spacing (z, y, x) of a volume of shape (D, H, W)."""
    return tuple(round(extent / n, 4) for extent, n in zip(FIELD_MM, shape, strict=True))


class Body:
    """One patient: the voxel grid, and the image and label map as painted so far, each (D, H, W)."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int, int]):
        self.rng, self.shape = rng, shape
        self.spacing_mm = spacing_mm(shape)
        axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * s for n, s in zip(shape, self.spacing_mm, strict=True)]
        self.points = np.stack(np.meshgrid(*axes, indexing="ij"))                           # (3, D, H, W)
        for axis in range(3):
            self.points[axis] += 3.5 * self.noise(110) + 1.2 * self.noise(40)
        self.image = np.zeros(shape, np.float32)
        self.labels = np.zeros(shape, np.uint8)
        self.looks: dict[str, tuple[float, float, float]] = {}

    def noise(self, wavelength_mm: float) -> np.ndarray:
        """Return a random (D, H, W) field of one octave around the wavelength: mean 0, standard deviation 1."""
        frequencies = [fft.fftfreq(n, s) for n, s in zip(self.shape[:2], self.spacing_mm[:2], strict=True)]
        frequencies.append(fft.rfftfreq(self.shape[2], self.spacing_mm[2]))
        z, y, x = np.meshgrid(*frequencies, indexing="ij", sparse=True)
        relative = np.sqrt(z * z + y * y + x * x) * wavelength_mm
        spectrum = fft.rfftn(self.rng.standard_normal(self.shape, np.float32))
        spectrum *= np.exp(-2 * (relative - 1) ** 2).astype(np.float32)
        spectrum[0, 0, 0] = 0
        field = fft.irfftn(spectrum, self.shape)
        return field / field.std()

    def paint(self, inside_mm: np.ndarray, values: np.ndarray | float, label: int = 0) -> None:
        """Paint values and a label where the (D, H, W) distance from the border, `inside_mm`, is positive."""
        share = np.clip(inside_mm / EDGE_MM + 0.5, 0, 1)
        self.image += share * (values - self.image)
        self.labels[share > 0.5] = label

    def paint_tissue(self, tissue: Tissue, limit_mm: np.ndarray) -> None:
        """Draw a tissue's shape and appearance, and paint it where `limit_mm` (D, H, W) is positive."""
        rng = self.rng
        shift, scale = rng.normal(0, tissue.shift_mm, 3), rng.uniform(0.88, 1.12, 3)
        inside = np.max([self._inside(part, shift, scale) for part in tissue.parts], axis=0)
        for cut in tissue.cuts:
            inside = np.minimum(inside, -self._inside(cut, shift, scale))
        drawn = rng.uniform(*tissue.intensity), rng.uniform(*tissue.grain_mm), rng.uniform(*tissue.grain)
        intensity, grain_mm, strength = self.looks.setdefault(tissue.kind, drawn)
        grain = strength * self.noise(grain_mm)
        if tissue.vessels:
            grain += tissue.vessels * np.clip(self.noise(22) - 1.6, 0, 1)
        inside = np.minimum(inside, limit_mm)
        if tissue.capsule_mm:
            self.paint(inside + tissue.capsule_mm, rng.uniform(70, 110))
        self.paint(inside, intensity * (1 + grain), tissue.label)

    def _inside(self, ellipsoid: Ellipsoid, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return the (D, H, W) distance in mm inside an ellipsoid's border, exact where the ellipsoid is thinnest."""
        centre, radii = (np.asarray(values, float) for values in ellipsoid)
        position = self.points - (centre + shift).astype(np.float32)[:, None, None, None]
        reach = np.sqrt(sum((p / r) ** 2 for p, r in zip(position, (radii * scale).astype(np.float32), strict=True)))
        return (1 - reach) * np.float32((radii * scale).min())


def _bowel(rng: np.random.Generator) -> Iterator[Tissue]:
    """Yield loops of every brightness, so that brightness alone does not identify an organ."""
    for number in range(rng.integers(22, 30)):
        centre = (rng.uniform(-90, 10), rng.uniform(-5, 75), rng.uniform(-100, 100))
        radii = tuple(rng.permutation([rng.uniform(11, 16), rng.uniform(12, 20), rng.uniform(20, 34)]))
        yield Tissue(f"bowel {number}", (140, 850), (7, 24), (0.04, 0.16), ((centre, radii),))


def _paint_wall(body: Body) -> np.ndarray:
    """Paint skin, fat, muscle, the cavity's fat and the lungs. Return the (D, H, W) distance in mm inside the cavity's wall."""
    rng = body.rng
    z, y, x = body.points
    half_width, half_height = rng.uniform(132, 150), rng.uniform(94, 108)
    reach = (np.abs(x / half_width) ** 2.5 + np.abs(y / half_height) ** 2.5) ** (1 / 2.5)
    inside = (1 - reach) * half_height
    body.paint(inside, rng.uniform(110, 180))
    body.paint(inside - 3, rng.uniform(60, 90) * (1 + 0.1 * body.noise(20)))
    fat_mm = rng.uniform(7, 18) + 2 * body.noise(90)
    body.paint(inside - fat_mm, rng.uniform(110, 170) * (1 + 0.12 * body.noise(12)))
    cavity = inside - fat_mm - rng.uniform(7, 10)
    body.paint(cavity, rng.uniform(70, 120) * (1 + 0.2 * body.noise(16)))
    dome_mm = rng.uniform(66, 80) - (x * x + (1.4 * y) ** 2) / 260
    body.paint(np.minimum(cavity, z - dome_mm), rng.uniform(45, 60) * (1 + 0.25 * body.noise(14)))
    return cavity


def _draw_body(rng: np.random.Generator, shape: tuple[int, int, int]) -> Body:
    body = Body(rng, shape)
    cavity = _paint_wall(body)
    for tissue in (*_bowel(rng), *ORGANS):
        body.paint_tissue(tissue, cavity)
    for tissue in FRAME:
        body.paint_tissue(tissue, cavity + 20)
    return body


def _scan(body: Body) -> np.ndarray:
    """Return the scan of a body: with blur, bias field and coil noise, in whole numbers, clipped as CHAOS is."""
    rng = body.rng
    seen = ndimage.gaussian_filter(body.image, (0.35, 0.5, 0.5)) * np.exp(0.13 * body.noise(260))
    sigma = rng.uniform(8, 13)
    real, imaginary = (sigma * rng.standard_normal(body.shape, np.float32) for _ in range(2))
    image = np.hypot(seen + real, imaginary)
    return np.minimum(image, np.percentile(image, 99.5)).astype(np.int16)


def _complete(labels: np.ndarray) -> bool:
    """Return whether each label has at least MIN_SLICES slices, which are consecutive."""
    for label in range(1, N_LABELS + 1):
        slices = np.flatnonzero((labels == label).any(axis=(1, 2)))
        if len(slices) < MIN_SLICES or slices[-1] - slices[0] + 1 != len(slices):
            return False
    return True


def make_case(seed: int, case: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a case's image, int16 from 0 to about 1000, and label map, uint8, both of the shape (D, H, W)."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, case]))
    body = _draw_body(rng, shape)
    while not _complete(body.labels):
        body = _draw_body(rng, shape)
    return _scan(body), body.labels


def case_files(folder: Path, case: int, min_size: int) -> tuple[Path, Path, Path]:
    """Return the paths of a case's image, label map and supervoxels."""
    images = folder / "chaos_MR_T2_normalized"
    return (images / f"image_{case}.nii.gz", images / f"label_{case}.nii.gz",
            folder / f"supervoxels_{min_size}/superpix-MIDDLE_{case}.nii.gz")


def write_case(folder: Path, case: int, parameters: dict[str, int]) -> None:
    """Write a case's image, label map and supervoxels in LAS orientation."""
    shape = (parameters["slices"], parameters["size"], parameters["size"])
    image, labels = make_case(parameters["seed"], case, shape)
    supervoxels = generate_supervoxels(image, spacing_mm(shape), parameters["min_size"])
    affine = np.diag([*np.multiply(spacing_mm(shape)[::-1], (-1, 1, 1)), 1])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape[::-1]) - 1) / 2
    image_path, label_path, supervoxels_path = case_files(folder, case, parameters["min_size"])
    volume = nibabel.Nifti1Image(image.transpose(2, 1, 0), affine)
    volume.header.set_xyzt_units("mm")
    with replacing(image_path) as partial:
        nibabel.save(volume, partial)
    write_like(image_path, labels, label_path)
    write_like(image_path, supervoxels, supervoxels_path)


def is_made(output: Path, parameters: dict[str, int], overwrite: bool) -> bool:
    """Return whether the folder holds the dataset of these parameters. If it does not, the folder may be written.

    Raises:
        InputError: it holds something else, or a dataset of other parameters without `overwrite` or with files that were added
            or changed.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    try:
        found = parse_json(read_small(output / "phantom.json", SMALL.n_bytes), "", dict[str, int], limits=SMALL)
    except InputError:
        raise InputError(f"--output: {output} holds no phantom data set; allowed: a new or an empty folder, or one "
                         "that this command made") from None
    if found != parameters and not overwrite:
        raise InputError(f"--output: {output} was made with {found}, asked for is {parameters}; "
                         "--overwrite replaces it")
    if found != parameters:
        _expect_own(output, found)
    return found == parameters


def _expect_own(output: Path, found: Mapping[str, Any]) -> None:
    """Raise InputError if a folder to be replaced holds a file that `generate_phantom` did not make."""
    own = {output / "phantom.json", *(path for case in range(1, min(found.get("cases", 0), LIMITS["cases"][1]) + 1)
                                      for path in case_files(output, case, found.get("min_size", 0)))}
    files = [path for path in sorted(output.rglob("*")) if path.name != LIST and (path.is_symlink() or not path.is_dir())]
    if strange := [path for path in files if path not in own or path.is_symlink()]:
        raise InputError(f"--output: {strange[0]} is no part of the phantom; move it away to replace the folder")
    claim(files, remedy=f"another --output, or deleting {output} by hand")


def generate_phantom(output: Path, parameters: dict[str, int], overwrite: bool = False) -> None:
    """Make the dataset. It appears at `output` only when it is complete. `is_made` decides what is kept.

    Raises:
        InputError: as `is_made`.
    """
    output = output.resolve()
    if is_made(output, parameters, overwrite):
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-phantom-", dir=output.parent) as partial:
        folder = Path(partial) / output.name
        folder.mkdir()
        for case in tqdm(range(1, parameters["cases"] + 1), desc=output.name, unit="case"):
            write_case(folder, case, parameters)
        write_text(json.dumps(parameters, indent=2) + "\n", folder / "phantom.json")
        if output.exists():
            output.rename(Path(partial) / "replaced")      # it is removed with that folder
        folder.rename(output)


def parse_parameters(arguments: list[str] | None) -> tuple[argparse.Namespace, dict[str, int]]:
    """Return the options of the command line, and the parameters of the dataset. Raises InputError for one out of range."""
    parser = Parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("data/PHANTOM"), help="folder; default: %(default)s")
    parser.add_argument("--cases", type=int, default=DEFAULTS["cases"], help="number of volumes; default: %(default)s")
    parser.add_argument("--size", type=int, default=DEFAULTS["size"], help="rows and columns, over 320 mm; default: %(default)s")
    parser.add_argument("--slices", type=int, default=DEFAULTS["slices"],
                        help="number of slices, over 154 mm; default: %(default)s")
    parser.add_argument("--seed", type=int, default=DEFAULTS["seed"], help="everything follows from it; default: %(default)s")
    parser.add_argument("--min-size", type=int, help="voxels of the smallest supervoxel, the config's n_sv; default: "
                        f"{MIN_SIZE}, in proportion where --size or --slices differ")
    parser.add_argument("--overwrite", action="store_true", help="replace a phantom of other parameters")
    options = parser.parse_args(arguments)
    for name, (low, high) in LIMITS.items():
        _check_range(f"--{name}", getattr(options, name), low, high)
    n_voxels = options.slices * options.size ** 2
    min_size = round(MIN_SIZE_SHARE * n_voxels) if options.min_size is None else options.min_size
    _check_range("--min-size", min_size, 1, n_voxels)
    return options, {"version": VERSION, **{name: getattr(options, name) for name in LIMITS}, "min_size": min_size}


def _check_range(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{option}: got {value}, allowed: a whole number from {low} to {high}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    try:
        options, parameters = parse_parameters(arguments)
        generate_phantom(options.output, parameters, options.overwrite)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: cases 1 to {parameters['cases']}, supervoxels_{parameters['min_size']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
