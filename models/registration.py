"""Registration of a support scan to a query scan, which carries the support's label map along. Nothing is trained.

ConvexAdam on MIND-SSC features (Siebert, Hansen and Heinrich 2024). Its discrete search comes from the package `convexAdam`; the
continuous step is written here, because the package's own starts from whole volumes of one size, without an affine start, and
optimises one displacement per feature cell. Here the displacement lives on a grid half as fine, which makes it smoother.

No length is given in mm. Grids have a number of points, so their spacing follows the contents of the scan, from a mouse's brain
to a patient's trunk. `register` looks wide and coarse, over all contents; `zoom` then looks again in a box around what was
outlined, on a finer grid, from where the wide one ends. docs/guided_notes.md says what each step is worth.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from qnet.models.contents import CONTENT_LEVEL, content_box_mm, scaled
from qnet.models.mind import mind_ssc
from qnet.models.sampling import MIN_CELLS, WorkingGrid, column, grid_mm, grid_sample, mapped, sample, spacing_over
from qnet.models.settings import RegistrationSettings, Search
from qnet.util.base.shapes import expect_shape

with warnings.catch_warnings():   # the package silences all warnings of the process when it is imported
    from convexAdam.convex_adam_utils import correlate, coupled_convex, inverse_consistency

# the package leaves align_corners to its default. `catch_warnings` around its calls would not do: scans are registered in threads
warnings.filterwarnings("ignore", "Default grid_sample", UserWarning, r"convexAdam\.")

FEATURES = 13                     # of a channel: the twelve of MIND, and the intensity
MIN_CONTENT_POINTS = 100          # fewer points inside the contents do not make an affine map
OUTLIER_SHARE = 1 / 28            # of the contents' extent: a displacement so far off the affine map counts half
SAME_START = 0.01                 # of the contents' extent: starts that are nearer to each other are one
OVERSAMPLED = 8.0                 # no grid has more points for each voxel in its box
MOST_INTENSITY = 4.0              # times the usual weight of the intensity
ZOOM_MARGIN = 0.15                # of the organs' box, on either side, …
ZOOM_MARGIN_CELLS = 4             # … and so many voxels of the wide grid


@dataclass(frozen=True)
class Displacement:
    """A displacement of the points of a box: `points` → `points` + displacement.

    Args:
        voxels: (1, 3, …) in voxels of a grid, on a coarser grid, which takes an eighth of the memory.
        shape, origin_mm, spacing_mm: the grid's, (D, H, W).
        beyond: whether points outside the box move with its edge; else they stay.
    """

    voxels: Tensor
    shape: tuple[int, int, int]
    origin_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    beyond: bool

    @classmethod
    def on(cls, grid: WorkingGrid, voxels: Tensor, beyond: bool) -> Displacement:
        """Return the displacement on a grid."""
        return cls(voxels, grid.shape, _triple(grid.origin.tolist()), _triple(grid.spacing.tolist()), beyond)

    def __call__(self, points: Tensor) -> Tensor:
        """Displace (3, …) points in mm."""
        spacing = column(self.spacing_mm, points)
        index = (points - column(self.origin_mm, points)) / spacing
        places = ((2 * index + 1) / column(self.shape, points) - 1).flip(0).movedim(0, -1)
        return points + spacing * grid_sample(self.voxels, places[None], "border" if self.beyond else "zeros")[0]


@dataclass(frozen=True)
class Registration:
    """For each point of a query, the place in a support: an affine map of a displaced place.

    Args:
        affine: (3, 4) map of mm in the query to mm in the support (index × spacing).
        displacements: applied to the query's points one after the other, before the affine map; the finest comes first.
        spacing_mm: of the wide grid, (D, H, W): how finely the scans were compared.
        intensity_weights: of the intensity beside MIND, for each channel.
        query_shape, query_spacing_mm, support_spacing_mm: of the scans, (D, H, W).
    """

    affine: Tensor
    displacements: tuple[Displacement, ...]
    spacing_mm: tuple[float, float, float]
    intensity_weights: tuple[float, ...]
    query_shape: tuple[int, int, int]
    query_spacing_mm: tuple[float, float, float]
    support_spacing_mm: tuple[float, float, float]

    @property
    def wide(self) -> Registration:
        """The registration over all contents, without what was found by zooming."""
        return replace(self, displacements=self.displacements[-1:])

    @property
    def levels(self) -> tuple[Registration, ...]:
        """The registration itself and, if it was zoomed, the wide one."""
        return (self, self.wide) if len(self.displacements) > 1 else (self,)

    def places(self, points: Tensor) -> Tensor:
        """(3, …) places in the support, in mm, of (3, …) points in the query, in mm."""
        for displacement in self.displacements:
            points = displacement(points)
        return mapped(self.affine, points)

    def warp(self, support_maps: Tensor, padding_mode: str = "zeros") -> Tensor:
        """Carry (K, D, H, W) maps of the support over to the query: (K, D, H, W) of the query's own grid, trilinear."""
        places = self.places(grid_mm(self.query_shape, self.query_spacing_mm, self.affine.device))
        return sample(support_maps, places / column(self.support_spacing_mm, places), padding_mode)


def register(query: Tensor, support: Tensor, query_spacing_mm: Sequence[float], support_spacing_mm: Sequence[float],
             settings: RegistrationSettings) -> Registration:
    """Register a support volume to a query volume, over all their contents.

    The axes of both run the same anatomical way (the caller turns and flips them); sizes, spacings and fields of view are free.
    A coarse search from each start gives an affine map, of which the best is kept. A finer search and gradient steps on that give
    the displacement.

    Args:
        query, support: (D, H, W) volumes of any intensity range; or (C, D, H, W) of several channels, the same ones in both.
        query_spacing_mm, support_spacing_mm: (D, H, W).
    Raises:
        ValueError: wrong axes, an empty volume, a spacing that is not positive, values that are not finite, or the numbers of
            channels differ.
    """
    fixed, moving = (PreparedScan(volume, spacing_mm, settings, name) for volume, spacing_mm, name in (
        (query, query_spacing_mm, "query"), (support, support_spacing_mm, "support")))
    return fixed.register(moving)


class PreparedScan:
    """A scan that is registered to others, in threads if need be: its grids and features are computed once.

    Of a scan with several channels, MIND and the intensity of each are features side by side, and their squared differences
    count as their mean over the channels. A point has contents if one of its channels does.

    Args:
        volume: (D, H, W), of any intensity range; or (C, D, H, W), its channels.
        spacing_mm: (D, H, W).
        name: in messages.
    Attributes:
        images: (C, D, H, W), the channels, each from black to white as 0 to 1 (`scaled`).
        spacing_mm: (D, H, W).
        box: corners (3,) of its contents in mm.
    Raises:
        ValueError: as `register`.
    """

    def __init__(self, volume: Tensor, spacing_mm: Sequence[float], settings: RegistrationSettings,
                 name: str = "scan"):
        self.images, self.settings = _checked(name, volume, spacing_mm), settings
        self.spacing_mm = _triple(spacing_mm)
        self.box = content_box_mm(self.images.amax(dim=0), self.spacing_mm)
        self._prepared: dict[tuple, tuple[WorkingGrid, Tensor]] = {}
        self._preparing = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        """Go to another process without what can be computed again."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_prepared", "_preparing")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._prepared, self._preparing = {}, threading.Lock()

    @property
    def image(self) -> Tensor:
        """(D, H, W): the first channel."""
        return self.images[0]

    @property
    def contents(self) -> Tensor:
        """(D, H, W) bool: what is no background in one of the channels."""
        return (self.images > CONTENT_LEVEL).any(dim=0)

    @property
    def extent_mm(self) -> float:
        """The side of a cube as large as the box of the contents."""
        return float((self.box[1] - self.box[0]).prod() ** (1 / 3))

    @property
    def wide_mm(self) -> float:
        """The finest spacing of the grid on which `register` compares: about how far a registration errs."""
        extent, finest = self.box[1] - self.box[0], self.settings.finest * torch.tensor(self.spacing_mm)
        n_points = self._n_points(self.settings.searches.wide, self.box)
        return float(spacing_over(extent.double().cpu(), finest.double(), n_points).min())

    @torch.no_grad()
    def register(self, support: PreparedScan) -> Registration:
        """Register a support to this query, as the function `register` does."""
        if len(support.images) != len(self.images):
            raise ValueError(f"support: expected {len(self.images)} channels, as the query, got {len(support.images)}")
        affine, weights = self._affine(support)
        search = self.settings.searches.wide
        grid, query = self.prepared(search, self.box)
        displacement = self._displaced(grid, query, search, self._of(support, mapped(affine, grid.points), grid), weights, True)
        D, H, W = self.image.shape
        return Registration(affine, (displacement,), displacement.spacing_mm, weights, (D, H, W), self.spacing_mm,
                            support.spacing_mm)

    @torch.no_grad()
    def zoom(self, support: PreparedScan, found: Registration, box: tuple[Tensor, Tensor]) -> Registration:
        """Register once more in a box of this query (corners in mm), from where `found` ends. Outside it, `found` stays."""
        if not self.settings.zoom:
            return found
        search = self.settings.searches.zoom
        grid, query = self.prepared(search, box)
        of_support = self._of(support, found.places(grid.points), grid)
        finer = self._displaced(grid, query, search, of_support, found.intensity_weights, False)
        return replace(found, displacements=(finer, *found.displacements))

    def _affine(self, support: PreparedScan) -> tuple[Tensor, tuple[float, ...]]:
        """The (3, 4) affine map of the start that fits best, and the weights that the intensities get from then on."""
        search = self.settings.searches.affine
        grid, query = self.prepared(search, self.box)
        affines = distinct(starts_of(self, support), SAME_START * self.extent_mm, self.box)
        if self.settings.affine:
            affines = [self._fitted(support, start, search) for start in affines]
        found = [self._of(support, mapped(affine, grid.points), grid) for affine in affines]
        by = column_of(self._usual_weights, query)
        best = int(torch.stack([((of_one - query) * by).square().mean() for of_one in found]).argmin())
        intensities = [features[0, FEATURES - 1::FEATURES] for features in (query, found[best])]
        return affines[best], tuple(weight_of_intensity(of_query, of_support, self.settings.intensity_weight)
                                    for of_query, of_support in zip(*intensities, strict=True))

    @property
    def _usual_weights(self) -> tuple[float, ...]:
        return (self.settings.intensity_weight,) * len(self.images)

    def _fitted(self, support: PreparedScan, start: Tensor, search: Search) -> Tensor:
        """The affine map that fits the displacements of a coarse search best, distant ones counting less."""
        grid, query = self.prepared(search, self.box)
        by = column_of(self._usual_weights, query)
        voxels = discrete_search(query * by, self._of(support, mapped(start, grid.points), grid) * by, search, grid.shape)
        places = mapped(start, Displacement.on(grid, voxels, True)(grid.points))
        content = sample(self.contents.float()[None], grid.points / column(self.spacing_mm, query))[0] > 0.5
        if content.sum() <= MIN_CONTENT_POINTS:
            return start
        return fit_affine(grid.points[:, content], places[:, content], OUTLIER_SHARE * self.extent_mm)

    def _displaced(self, grid: WorkingGrid, query: Tensor, search: Search, support: Tensor,
                   intensity_weights: Sequence[float], beyond: bool) -> Displacement:
        query, support = (features * column_of(intensity_weights, features) for features in (query, support))
        start = discrete_search(query, support, search, grid.shape)
        voxels = descend(query, support, start, self.settings.n_steps, self.settings.smoothness)
        return Displacement.on(grid, voxels, beyond)

    def prepared(self, search: Search, box: tuple[Tensor, Tensor]) -> tuple[WorkingGrid, Tensor]:
        """Return the working grid of a search in a box, and this scan's features on it, (1, 13 C, d/2, h/2, w/2)."""
        key = search, *box[0].tolist(), *box[1].tolist()
        with self._preparing:
            if key not in self._prepared:
                grid = WorkingGrid(*box, self.spacing_mm, self._n_points(search, box), self.settings.finest,
                                   math.lcm(search.cell, 4), self.image.device)
                self._prepared[key] = grid, self.features(grid.points, self.settings, self._more(grid))
            return self._prepared[key]

    def _of(self, support: PreparedScan, places: Tensor, grid: WorkingGrid) -> Tensor:
        """Return the features of a support at the places where the points of a grid of this scan lie in it."""
        return support.features(places, self.settings, self._more(grid))

    def _more(self, grid: WorkingGrid) -> int:
        """How many points of a grid a voxel of this scan has along an axis, less one."""
        return max(0, round((math.prod(self.spacing_mm) / float(grid.spacing.prod())) ** (1 / 3)) - 1)

    def _n_points(self, search: Search, box: tuple[Tensor, Tensor]) -> int:
        """How many points a search has in a box of this scan."""
        voxels = float((box[1] - box[0]).prod()) / math.prod(self.spacing_mm)
        return max(1, min(search.points, round(OVERSAMPLED * voxels)))

    def features(self, places: Tensor, settings: RegistrationSettings, more: int = 0) -> Tensor:
        """Return MIND features and the intensity of each channel at (3, d, h, w) places in mm, means over 2×2×2 of them.

        Search and descent take no finer ones. Radius and dilation of MIND are `more` than the settings say where the places are
        finer than the query's voxels, since there is nothing to compare within a voxel.
        """
        volumes = self._at(places)
        minds = (mind_ssc(volume, settings.mind_radius + more, settings.mind_dilation + more) for volume in volumes)
        return torch.cat([F.avg_pool3d(maps, 2, stride=2) for mind, volume in zip(minds, volumes, strict=True)
                          for maps in (mind, volume[None])])[None]

    def intensities(self, places: Tensor) -> Tensor:
        """Return what `features` gives of the intensities, (C, d/2, h/2, w/2), without MIND."""
        return F.avg_pool3d(self._at(places), 2, stride=2)

    def _at(self, places: Tensor) -> Tensor:
        return sample(self.images, places / column(self.spacing_mm, places))

    def release(self) -> None:
        """Drop grids and features; they are computed again when they are needed."""
        with self._preparing:
            self._prepared.clear()


def column_of(intensity_weights: Sequence[float], features: Tensor) -> Tensor:
    """Return the weights (1, 13 C, 1, 1, 1) of features, of which the intensity is the last one of each channel."""
    weights = torch.ones(features.shape[1], device=features.device)
    weights[FEATURES - 1::FEATURES] = torch.tensor(tuple(intensity_weights), device=features.device)
    return weights.view(1, -1, 1, 1, 1)


def weight_of_intensity(query: Tensor, support: Tensor, usual: float) -> float:
    """Return the weight of the intensity as a feature, by how well two scans that lie on each other go together.

    It is `usual` where the correlation ρ of the intensities, in what both scans have of contents, is ½. It grows as ρ/√(1 − ρ²),
    the ratio of what a linear map explains to what it leaves, up to four times `usual`. Without a correlation, as between two
    kinds of contrast, it is 0.

    Args:
        query, support: (d, h, w) intensities, 0 to 1.
    """
    rho = correlation(query, support)
    if rho is None:
        return usual
    if not rho > 0:         # also where one of both is constant
        return 0.0
    return usual * min(MOST_INTENSITY, math.sqrt(3) * rho / math.sqrt(max(1e-6, 1 - rho * rho)))


def correlation(query: Tensor, support: Tensor) -> float | None:
    """Return how the intensities (d, h, w) of two scans that lie on each other correlate in what both have of contents.

    NaN where one of both is constant; None where both have hardly any.
    """
    both = (query > CONTENT_LEVEL) & (support > CONTENT_LEVEL)
    if both.sum() <= MIN_CONTENT_POINTS:
        return None
    return float(torch.corrcoef(torch.stack([query[both], support[both]]))[0, 1])


def starts_of(query: PreparedScan, support: PreparedScan) -> list[Tensor]:
    """(3, 4) affine maps of query mm to support mm from which a registration may start.

    The boxes of the contents over each other in the plane, with middle on middle along D (a trunk goes on above and
    below); the fields of view, middle on middle; the centres of mass of the contents.
    """
    (q0, q1), (s0, s1) = query.box, support.box
    one, scale = torch.ones_like(q0), (s1 - s0) / (q1 - q0)
    middles = [_middle_mm(scan) for scan in (query, support)]
    in_plane = torch.cat([one[:1], scale[1:]])
    boxes = [(q0 + q1) / 2, (s0 + s1) / 2]
    along_d = [torch.cat([middle[:1], box[1:]]) for middle, box in zip(middles, boxes, strict=True)]
    masses = [_centre_of_mass_mm(scan) for scan in (query, support)]
    return [_scaling(in_plane, *along_d), _scaling(one, *middles), _scaling(one, *masses)]


def _scaling(scale: Tensor, of_query: Tensor, of_support: Tensor) -> Tensor:
    return torch.cat([torch.diag(scale), (of_support - scale * of_query)[:, None]], dim=1)


def _middle_mm(scan: PreparedScan) -> Tensor:
    shape, spacing = (torch.tensor(tuple(values), dtype=torch.float32, device=scan.images.device)
                      for values in (scan.image.shape, scan.spacing_mm))
    return (shape - 1) * spacing / 2


def _centre_of_mass_mm(scan: PreparedScan) -> Tensor:
    content = scan.contents
    if not content.any():
        return _middle_mm(scan)
    counts = [content.sum(dim=[a for a in range(3) if a != axis]).float() for axis in range(3)]
    return torch.stack([(n * torch.arange(len(n), device=n.device)).sum() / n.sum() * s
                        for n, s in zip(counts, scan.spacing_mm, strict=True)])


def distinct(starts: Sequence[Tensor], distance_mm: float, box: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return the starts without those that take both corners of a box as near as `distance_mm` to where an earlier one does."""
    corners = F.pad(torch.stack(box, dim=1), (0, 0, 0, 1), value=1.0)
    kept: list[Tensor] = []
    for start in starts:
        if all(((start - other) @ corners).abs().max() > distance_mm for other in kept):
            kept.append(start)
    return kept


def discrete_search(query: Tensor, support: Tensor, search: Search, shape: Sequence[int]) -> Tensor:
    """ConvexAdam's discrete search, inverse consistent: (1, 3, cells…) displacements in voxels of the working grid.

    Features are on half that grid. Their squared differences are summed, and so divided by the number of channels.
    """
    cell, reach = search.cell, search.reach
    mesh = F.affine_grid(reach * torch.eye(3, 4, device=query.device)[None], [1, 1, *[2 * reach + 1] * 3], align_corners=True)
    mesh = mesh.permute(0, 4, 1, 2, 3).reshape(3, -1, 1)
    scale = (torch.tensor(shape, device=query.device) // cell - 1).view(1, 3, 1, 1, 1) / 2
    a, b = (F.avg_pool3d(features, cell // 2, stride=cell // 2) / math.sqrt(features.shape[1] / FEATURES)
            for features in (query, support))
    there, back = (coupled_convex(*correlate(fixed, moving, reach, cell, shape, a.shape[1]), mesh, cell, shape) / scale
                   for fixed, moving in ((a, b), (b, a)))
    there, _ = inverse_consistency(there.flip(1), back.flip(1), iter=15)
    return there.flip(1) * scale * cell


def descend(query: Tensor, support: Tensor, start: Tensor, n_steps: int, smoothness: float) -> Tensor:
    """Improve displacements by Adam on the squared feature difference and a diffusion term.

    Args:
        query, support: (1, 13 C, d/2, h/2, w/2) features, on half the working grid.
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
            warped = grid_sample(support, identity + (cells.permute(0, 2, 3, 4, 1) / half).flip(-1))
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


def fit_affine(points: Tensor, targets: Tensor, scale_mm: float, n_rounds: int = 5) -> Tensor:
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


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    z, y, x = map(float, values)
    return z, y, x


def _checked(name: str, volume: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """The channels of a volume, (C, D, H, W), each as `scaled` returns it, or ValueError naming the volume."""
    expect_shape(name, volume, "D H W" if volume.ndim == 3 else "C D H W")
    if not volume.numel():
        raise ValueError(f"{name}: the volume is empty, shape {tuple(volume.shape)}")
    if len(spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise ValueError(f"{name}: spacing must be three positive numbers of mm, got {tuple(spacing_mm)}")
    if not volume.isfinite().all():
        raise ValueError(f"{name}: some values are not finite")
    return torch.stack([scaled(channel) for channel in (volume if volume.ndim == 4 else volume[None])])
