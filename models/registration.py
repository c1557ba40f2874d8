"""Registration of a support scan to a query scan, which carries the support's label map along. Nothing is trained.

ConvexAdam on MIND-SSC features (Siebert, Hansen and Heinrich 2024), in millimetres. Its discrete search comes from the package
`convexAdam`; the continuous step is written here, because the package's own starts from whole volumes of one size, without an
affine start, and optimises one displacement per feature cell. Here the displacement lives on a grid half as fine, which makes
it smoother. docs/guided_notes.md says what the affine start and the features are worth.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.mind import mind_ssc
from models.volume import VolumeModel, VolumeSegmentation
from util.base.shapes import expect_shape

with warnings.catch_warnings():   # the package silences all warnings of the process when it is imported
    from convexAdam.convex_adam_utils import correlate, coupled_convex, inverse_consistency

# the package leaves align_corners to its default. `catch_warnings` around its calls would not do: scans are registered in threads
warnings.filterwarnings("ignore", "Default grid_sample", UserWarning, r"convexAdam\.")

BODY_LEVEL = 0.06                 # of the range from the volume's minimum to its 99.5th percentile
MIN_BODY_SHARE = 0.02             # a row or column with less body than this lies outside the body box
MISFIT_SPACING_MM = 2.5           # of the pixels on which `misfit` compares
MISFIT_SCALE = 0.1                # misfit at which a confidence is 1/e
MIN_CELLS = 3                     # along each axis; the smoothing needs them


@dataclass(frozen=True)
class Search:
    """One discrete search: grid, and how far it looks."""

    spacing_mm: tuple[float, float, float]
    cell: int                     # voxels of the working grid per cell of the search, along each axis
    reach: int                    # cells to either side

    def __post_init__(self) -> None:
        if min(self.spacing_mm) <= 0 or self.cell < 2 or self.cell % 2 or self.reach < 1:
            raise ValueError(f"Search: spacing, cell and reach are positive, and cell is even, got {self}")


@dataclass(frozen=True)
class RegistrationSettings:
    """Settings of `register`; all lengths in mm, axes (D, H, W).

    `affine` gives the affine map from which `search` starts; None: body box on body box. `smoothness` weighs the squared
    differences of neighbouring displacements (in cells of two voxels). The intensity, 0…1 and times `intensity_weight`, is one
    more feature beside the twelve of MIND. `fuse` takes `agreement_power` where there are several ways. Scans of more than
    `max_voxels` on the working grid are taken on a coarser one.
    """

    affine: Search | None = Search((8.0, 5.0, 5.0), cell=4, reach=5)
    search: Search = Search((4.0, 2.5, 2.5), cell=6, reach=5)
    mind_radius: int = 2
    mind_dilation: int = 3
    intensity_weight: float = 2.0
    smoothness: float = 0.5
    n_steps: int = 40
    agreement_power: float = 10.0
    max_voxels: int = 1_200_000


@dataclass(frozen=True)
class Registration:
    """For each point of a working grid on the query, the place in the support: an affine map of a displaced place.

    Args:
        affine: (3, 4) map of mm in the query to mm in the support (index × spacing).
        voxels: (1, 3, …) displacement in voxels of the working grid, on a coarser grid, which takes an eighth of the memory.
        shape, origin_mm, spacing_mm: the working grid's, in the query (index × spacing).
        query_shape, query_spacing_mm, support_spacing_mm: of the scans, (D, H, W).
    """

    affine: Tensor
    voxels: Tensor
    shape: tuple[int, int, int]
    origin_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    query_shape: tuple[int, int, int]
    query_spacing_mm: tuple[float, float, float]
    support_spacing_mm: tuple[float, float, float]

    @property
    def support_mm(self) -> Tensor:
        """(3, d, h, w) position in the support (index × spacing, in mm) of the points of the working grid."""
        device = self.voxels.device
        points = grid_mm(self.shape, self.spacing_mm, device) + _column(self.origin_mm, self.voxels)
        return _apply(self.affine, points + _in_mm(self.voxels, self.shape, self.spacing_mm))

    def warp(self, support_maps: Tensor, padding_mode: str = "zeros") -> Tensor:
        """Carry (K, D, H, W) maps of the support over to the query: (K, D, H, W) of the query's own grid, trilinear."""
        points = grid_mm(self.query_shape, self.query_spacing_mm, device=self.voxels.device)
        on_working_grid = (points - _column(self.origin_mm, points)) / _column(self.spacing_mm, points)
        support_mm = sample(self.support_mm, on_working_grid, "border")
        return sample(support_maps, support_mm / _column(self.support_spacing_mm, points), padding_mode)


def register(query: Tensor, support: Tensor, query_spacing_mm: Sequence[float], support_spacing_mm: Sequence[float],
             settings: RegistrationSettings | None = None) -> Registration:
    """Register a support volume to a query volume.

    The axes of both run the same anatomical way (the caller turns and flips them); sizes, spacings and fields of view are
    free. Both volumes' body boxes are laid over each other, a coarse search on that gives an affine map, a finer search and
    gradient steps on that give the displacement.

    Args:
        query, support: (D, H, W) volumes of any intensity range.
        query_spacing_mm, support_spacing_mm: (D, H, W).
    Raises:
        ValueError: wrong axes, an empty volume, a spacing that is not positive, or values that are not finite.
    """
    return Fixed(query, query_spacing_mm, settings).register(support, support_spacing_mm)


class Fixed:
    """A query to which several supports are registered, in threads if need be: its grids and features are computed once.

    Args:
        query: (D, H, W) volume of any intensity range.
        spacing_mm: (D, H, W).
    Raises:
        ValueError: as `register`.
    """

    def __init__(self, query: Tensor, spacing_mm: Sequence[float], settings: RegistrationSettings | None = None):
        self.query, self.settings = checked("query", query, spacing_mm), settings or RegistrationSettings()
        z, y, x = map(float, spacing_mm)
        self.spacing = (z, y, x)
        self.box = body_box_mm(self.query, self.spacing)
        self._prepared: dict[Search, tuple[_WorkingGrid, Tensor]] = {}
        self._preparing = threading.Lock()

    @torch.no_grad()
    def register(self, support: Tensor, support_spacing_mm: Sequence[float]) -> Registration:
        """Register a support volume, as the function `register` does."""
        support = checked("support", support, support_spacing_mm)
        z, y, x = map(float, support_spacing_mm)
        job = _Job(self, support, (z, y, x))
        affine = job.box_affine()
        return job.displaced(affine if self.settings.affine is None else job.affine_of(affine, self.settings.affine))

    def prepared(self, search: Search) -> tuple[_WorkingGrid, Tensor]:
        """Return the working grid of a search, and the query's features on it, (1, 13, d/2, h/2, w/2)."""
        with self._preparing:
            if search not in self._prepared:
                grid = _WorkingGrid(self.box, search, self.settings.max_voxels, self.query.device)
                query = sample(self.query[None], grid.points / _column(self.spacing, grid.points))
                self._prepared[search] = grid, self.features(query)
            return self._prepared[search]

    def features(self, volume: Tensor) -> Tensor:
        """Return MIND features and the weighted intensity of a (1, d, h, w) volume, means over 2×2×2 voxels.

        Search and descent take no finer ones.
        """
        mind = F.avg_pool3d(mind_ssc(volume[0], self.settings.mind_radius, self.settings.mind_dilation), 2, stride=2)
        return torch.cat([mind, self.settings.intensity_weight * F.avg_pool3d(volume, 2, stride=2)])[None]


def misfit(query: Tensor, warped: Tensor, registered: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """How badly the warped support looks like the query where each class is said to lie: the smaller, the surer.

    The mean squared difference of MIND features (radius 1, dilation 2, pixels of 2.5 mm, the query's own slices) over the voxels
    where the registered map is above 0.05. It ranks bad outlines (docs/guided_notes.md).

    Args:
        query: (D, H, W); warped: the support volume carried to it (`Registration.warp` of `support[None]`), (D, H, W).
        registered: (K, D, H, W) probabilities.
    Returns:
        (K,); infinite for a class that the map does not hold.
    """
    n = expect_shape("query", query, "D H W")
    expect_shape("warped", warped, "D H W", **n)
    expect_shape("registered", registered, "K D H W", **n)
    size = [n["D"], *(max(1, round(n[axis] * spacing_mm[i] / MISFIT_SPACING_MM)) for i, axis in ((1, "H"), (2, "W")))]
    first, second = (_resized(scaled(volume)[None], size)[0] for volume in (query, warped))
    difference = (mind_ssc(first, 1, 2) - mind_ssc(second, 1, 2)).square().mean(dim=0)
    inside = _resized(registered.float(), size) > 0.05
    return torch.stack([difference[mask].mean() if mask.any() else difference.new_tensor(math.inf) for mask in inside])


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(maps[None], size=size, mode="trilinear", align_corners=False)[0]


class _Job:
    """One pair of scans, scaled to 0…1."""

    def __init__(self, fixed: Fixed, support: Tensor, support_spacing: tuple[float, float, float]):
        self.fixed, self.support, self.support_spacing = fixed, support, support_spacing

    def box_affine(self) -> Tensor:
        """(3, 4) map of query mm to support mm: body boxes over each other in the plane, middle on middle along D."""
        (q0, q1), (s0, s1) = self.fixed.box, body_box_mm(self.support, self.support_spacing)
        scale = (s1 - s0) / (q1 - q0)
        scale[0] = 1.0
        return torch.cat([torch.diag(scale), ((s0 + s1) / 2 - scale * (q0 + q1) / 2)[:, None]], dim=1)

    def affine_of(self, start: Tensor, search: Search) -> Tensor:
        """The affine map that fits the displacements of a coarse search best, distant ones counting less."""
        grid, query = self.fixed.prepared(search)
        support_mm = _apply(start, grid.points + grid.in_mm(_search(query, self.mapped(grid, start), grid)))
        inside = (self.fixed.query > BODY_LEVEL).float()[None]
        body = sample(inside, grid.points / _column(self.fixed.spacing, query))[0] > 0.5
        return fit_affine(grid.points[:, body], support_mm[:, body]) if body.sum() > 100 else start

    def displaced(self, affine: Tensor) -> Registration:
        settings = self.fixed.settings
        grid, query = self.fixed.prepared(settings.search)
        support = self.mapped(grid, affine)
        voxels = descend(query, support, _search(query, support, grid), settings.n_steps, settings.smoothness)
        D, H, W = self.fixed.query.shape
        return Registration(affine, voxels, grid.shape, tuple(grid.origin.tolist()), tuple(grid.spacing.tolist()), (D, H, W),
                            self.fixed.spacing, self.support_spacing)

    def mapped(self, grid: _WorkingGrid, affine: Tensor) -> Tensor:
        """Features, (1, 13, d/2, h/2, w/2), of the affinely mapped support."""
        places = _apply(affine, grid.points) / _column(self.support_spacing, grid.points)
        return self.fixed.features(sample(self.support[None], places))


class _WorkingGrid:
    """Grid over a box of the query, in whole cells of the search."""

    def __init__(self, box: tuple[Tensor, Tensor], search: Search, max_voxels: int, device: torch.device):
        low, high = (corner.cpu() for corner in box)
        self.search, self.spacing = search, torch.tensor(search.spacing_mm)
        unit = math.lcm(search.cell, 4)
        while True:
            cells = ((high - low) / self.spacing / unit - 0.15).ceil().clamp_min(math.ceil(MIN_CELLS * search.cell / unit))
            d, h, w = (int(n) * unit for n in cells)
            self.shape = d, h, w
            if math.prod(self.shape) <= max_voxels or not (cells * unit > MIN_CELLS * search.cell).any():
                break
            self.spacing = self.spacing * max(1.05, (math.prod(self.shape) / max_voxels) ** (1 / 3))
        self.origin = (low + high) / 2 - self.spacing * (torch.tensor(self.shape) - 1) / 2
        self.points = (grid_mm(self.shape, self.spacing.tolist(), device) + _column(self.origin.tolist(), self.spacing, device))

    def in_mm(self, voxels: Tensor) -> Tensor:
        """(1, 3, …) displacements in voxels, on any grid → (3, d, h, w) in mm."""
        return _in_mm(voxels, self.shape, self.spacing.tolist())


def _in_mm(voxels: Tensor, shape: Sequence[int], spacing_mm: Sequence[float]) -> Tensor:
    fine = F.interpolate(voxels, size=shape, mode="trilinear", align_corners=False)[0]
    return fine * _column(spacing_mm, fine)


def _search(query: Tensor, support: Tensor, grid: _WorkingGrid) -> Tensor:
    """ConvexAdam's discrete search, inverse consistent: (1, 3, cells…) displacements in voxels of the working grid.

    Features are on half that grid.
    """
    cell, reach, shape = grid.search.cell, grid.search.reach, grid.shape
    mesh = F.affine_grid(reach * torch.eye(3, 4, device=query.device)[None], [1, 1, *[2 * reach + 1] * 3], align_corners=True)
    mesh = mesh.permute(0, 4, 1, 2, 3).reshape(3, -1, 1)
    scale = (torch.tensor(shape, device=query.device) // cell - 1).view(1, 3, 1, 1, 1) / 2
    a, b = (F.avg_pool3d(features, cell // 2, stride=cell // 2) for features in (query, support))
    there, back = (coupled_convex(*correlate(fixed, moving, reach, cell, shape, a.shape[1]), mesh, cell, shape) / scale
                   for fixed, moving in ((a, b), (b, a)))
    there, _ = inverse_consistency(there.flip(1), back.flip(1), iter=15)
    return there.flip(1) * scale * cell


def descend(query: Tensor, support: Tensor, start: Tensor, n_steps: int, smoothness: float) -> Tensor:
    """Improve displacements by Adam on the squared feature difference and a diffusion term.

    Args:
        query, support: (1, C, d/2, h/2, w/2) features, on half the working grid.
        start: (1, 3, …) displacements in voxels of the working grid, on any grid.
    Returns:
        (1, 3, d/2, h/2, w/2) displacements in voxels.
    """
    size = query.shape[2:]
    control = F.interpolate(start, size=[max(MIN_CELLS, n // 2) for n in size], mode="trilinear", align_corners=False) / 2
    control, adam = control.clone().requires_grad_(True), _Adam(control)
    support = support.contiguous(memory_format=torch.channels_last_3d)      # all features of a cell side by side
    identity = F.affine_grid(torch.eye(3, 4, device=query.device)[None], [1, 1, *size], align_corners=False)
    half = torch.tensor(size, device=query.device) / 2
    with torch.enable_grad():
        for step in range(n_steps):
            cells = _smooth(control, size)
            warped = _grid_sample(support, identity + (cells.permute(0, 2, 3, 4, 1) / half).flip(-1))
            loss = (warped - query).square().mean() * 12 + smoothness * _diffusion(cells)
            gradient, = torch.autograd.grad(loss, control)
            adam.step(control, gradient, 0.5 * (1 + math.cos(math.pi * step / n_steps)) + 0.02)
    return _smooth(control.detach(), size) * 2


class _Adam:
    """Adam (Kingma and Ba 2015), bit for bit that of `torch.optim`, whose import takes 1.3 s and 150 MB more."""

    def __init__(self, like: Tensor):
        self.mean, self.square, self.n = torch.zeros_like(like), torch.zeros_like(like), 0

    @torch.no_grad()
    def step(self, values: Tensor, gradient: Tensor, rate: float) -> None:
        """Move values, in place, by about `rate` against their gradient."""
        self.n += 1
        self.mean.lerp_(gradient, 1 - 0.9)
        self.square.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        deviation = (self.square.sqrt() / (1 - 0.999**self.n) ** 0.5).add_(1e-8)
        values.addcdiv_(self.mean, deviation, value=-rate / (1 - 0.9**self.n))


def _smooth(control: Tensor, size: Sequence[int]) -> Tensor:
    for _ in range(2):
        control = F.avg_pool3d(control, 3, stride=1, padding=1, count_include_pad=False)
    return F.interpolate(control, size=size, mode="trilinear", align_corners=False)


def _diffusion(cells: Tensor) -> Tensor:
    return torch.stack([cells.diff(dim=axis).square().mean() for axis in (2, 3, 4)]).sum()


def fit_affine(points: Tensor, targets: Tensor, n_rounds: int = 5, scale_mm: float = 10.0) -> Tensor:
    """(3, 4) affine map that takes (3, N) points to targets, both in mm; robust: weights 1/(1 + distance/scale_mm)."""
    thin = max(1, points.shape[1] // 50_000)
    X = F.pad(points[:, ::thin].double(), (0, 0, 0, 1), value=1.0)
    Y = targets[:, ::thin].double()
    weights = torch.ones_like(X[0])
    for _ in range(n_rounds):
        gram = (X * weights.square()) @ X.T + 1e-6 * torch.eye(4, dtype=X.dtype, device=X.device)
        affine = torch.linalg.solve(gram, (X * weights.square()) @ Y.T).T
        weights = 1 / (1 + (Y - affine @ X).norm(dim=0) / scale_mm)
    return affine.float()


def body_box_mm(volume: Tensor, spacing_mm: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Lower and upper corner (3,) of the body in index × spacing: all slices, and in the plane where there is body at all."""
    body = (volume > BODY_LEVEL).float()
    spans = [(0, volume.shape[0])]
    for axes, size in (((0, 2), volume.shape[1]), ((0, 1), volume.shape[2])):
        found = torch.nonzero(body.mean(dim=axes) > MIN_BODY_SHARE).flatten()
        spans.append((int(found[0]), int(found[-1]) + 1) if len(found) else (0, size))
    bounds = torch.tensor(spans, dtype=torch.float32, device=volume.device)
    spacing = torch.tensor(tuple(map(float, spacing_mm)), device=volume.device)
    return (bounds[:, 0] - 0.5) * spacing, (bounds[:, 1] - 0.5) * spacing


def sample(maps: Tensor, index: Tensor, padding_mode: str = "zeros") -> Tensor:
    """Trilinear values of (K, D, H, W) maps at (3, …) voxel indices: (K, …)."""
    size = _column(maps.shape[1:], index)
    points = ((2 * index + 1) / size - 1).flip(0).movedim(0, -1)
    return _grid_sample(maps[None], points[None], padding_mode)[0]


def _grid_sample(maps: Tensor, points: Tensor, padding_mode: str = "zeros") -> Tensor:
    """`F.grid_sample` of (1, K, D, H, W) maps at (1, d, h, w, 3) points: (1, K, d, h, w).

    Slices are given as a batch, since on a CPU each sample of a batch gets one thread.
    """
    by_slice = F.grid_sample(maps.expand(points.shape[1], -1, -1, -1, -1), points[0, :, None], padding_mode=padding_mode,
                             align_corners=False)
    return by_slice.permute(2, 1, 0, 3, 4)


def grid_mm(shape: Sequence[int], spacing_mm: Sequence[float], device: torch.device | None = None) -> Tensor:
    """(3, D, H, W) positions index × spacing."""
    axes = [torch.arange(n, device=device, dtype=torch.float32) * s for n, s in zip(shape, spacing_mm, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _apply(affine: Tensor, points: Tensor) -> Tensor:
    affine = affine.to(points)
    return torch.einsum("ij,jdhw->idhw", affine[:, :3], points) + affine[:, 3].view(3, 1, 1, 1)


def _column(values: Sequence[float], like: Tensor, device: torch.device | None = None) -> Tensor:
    return torch.tensor(tuple(map(float, values)), device=device or like.device).view(3, 1, 1, 1)


def checked(name: str, volume: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """The (D, H, W) volume as `scaled` returns it, or ValueError naming it."""
    expect_shape(name, volume, "D H W")
    if not volume.numel():
        raise ValueError(f"{name}: the volume is empty, shape {tuple(volume.shape)}")
    if len(spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise ValueError(f"{name}: spacing must be three positive numbers of mm, got {tuple(spacing_mm)}")
    if not volume.isfinite().all():
        raise ValueError(f"{name}: some values are not finite")
    return scaled(volume)


def scaled(volume: Tensor) -> Tensor:
    """Map a volume from its minimum … 99.5th percentile to 0…1, float32; a constant volume is all 0."""
    volume = volume.float()
    low = volume.min()
    rank = max(1, math.ceil(0.995 * volume.numel()))
    span = volume.flatten().kthvalue(rank).values - low
    return ((volume - low) / span).clamp(0, 1) if span > 0 else torch.zeros_like(volume)


def carry(maps: Tensor, way: Sequence[Registration]) -> Tensor:
    """Carry (K, D, H, W) maps of the support over to the query, along a chain of registrations that begins at the query."""
    for registration in reversed(way):
        maps = registration.warp(maps)
    return maps


def fuse(maps: Sequence[Tensor], power: float, n_rounds: int = 3) -> Tensor:
    """Return the mean of several (K, D, H, W) maps of the same classes, those that agree with the others counting more.

    The weight of a map, for each class, is its soft Dice with the mean so far to the power `power`. That leaves out what a
    registration that failed says, as in SIMPLE (Langerak et al. 2010), without a threshold. It is taken at half the resolution
    in the plane. Power 0 gives the plain mean.
    """
    if len(maps) == 1:
        return maps[0]
    small = torch.stack([F.avg_pool3d(of_one.float(), (1, 2, 2), ceil_mode=True) for of_one in maps])
    weights = torch.full(small.shape[:2], 1 / len(maps), device=small.device)
    for _ in range(n_rounds if power else 0):
        mean = torch.einsum("nk,nkdhw->kdhw", weights, small)
        shared, sizes = torch.minimum(small, mean).sum((2, 3, 4)), small.sum((2, 3, 4)) + mean.sum((1, 2, 3))
        weights = ((2 * shared + 1) / (sizes + 1)) ** power
        weights = weights / weights.sum(dim=0)
    mean = torch.zeros_like(maps[0], dtype=torch.float32)
    for of_one, weight in zip(maps, weights, strict=True):
        mean += weight.view(-1, 1, 1, 1) * of_one
    return mean


class RegistrationModel(VolumeModel):
    """The support's label map, carried over by `register`, and `fuse` of several ways.

    Args:
        settings: of the registration.
    """

    def __init__(self, settings: RegistrationSettings | None = None):
        super().__init__()
        self.settings = settings or RegistrationSettings()

    def fixed(self, query: Tensor, spacing_mm: Sequence[float]) -> Fixed:
        """See VolumeModel."""
        return Fixed(query, spacing_mm, self.settings)

    def segment_volume(self, query: Tensor, support: Tensor, support_masks: Tensor, query_spacing_mm: Sequence[float],
                       ways: Sequence[Sequence[Registration]]) -> VolumeSegmentation:
        """See VolumeModel. The confidence of a class is exp(−`misfit`/MISFIT_SCALE): 0 where nothing of it was carried over."""
        expect_shape("support_masks", support_masks, "K D H W", **expect_shape("support", support, "D H W"))
        if not ways:
            raise ValueError("ways: got none, expected at least the direct one")
        maps = [carry(support_masks.float(), way) for way in ways]
        probs = fuse(maps if len(maps) == 1 else [of_one.half() for of_one in maps], self.settings.agreement_power)
        warped = carry(scaled(support)[None], ways[0])[0]
        confidence = (-misfit(query, warped, probs, query_spacing_mm) / MISFIT_SCALE).exp()
        return VolumeSegmentation(probs, probs, confidence, warped)
