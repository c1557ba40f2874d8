"""What methods may be told: their settings, each with what it may be. `configs/base.json5` explains them and has their defaults.

Nothing here needs PyTorch, so a config is checked without it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from qnet.util.base.rules import boolean, number, one_of, whole


@dataclass(frozen=True)
class Search:
    """One discrete search of a registration: its grid, and how far it looks.

    Args:
        points: about so many, over the box that is searched.
        cell: voxels of the grid per cell of the search, along each axis.
        reach: cells to either side.
    """

    points: int
    cell: int
    reach: int

    def __post_init__(self) -> None:
        if self.points < 1 or self.cell < 2 or self.cell % 2 or self.reach < 1:
            raise ValueError(f"Search: points, cell and reach are positive, and cell is even, got {self}")


@dataclass(frozen=True)
class Searches:
    """The searches of a registration, which no option changes: for the affine map, the wide one from there, and the zoom."""

    affine: Search = Search(100_000, cell=4, reach=5)
    wide: Search = Search(800_000, cell=6, reach=2)
    zoom: Search = Search(1_000_000, cell=4, reach=2)


@dataclass(frozen=True)
class RegistrationSettings:
    """How a support is registered to a query: the section `registration`.

    Without `affine`, the best start is taken as it is, and compared on the same grid; without `zoom`, the wide search is the
    last. `smoothness` weighs the squared differences of neighbouring displacements, in cells of two voxels. The intensity, 0…1,
    is one more feature beside the twelve of MIND: times `intensity_weight` in the affine search, and then by how well the
    intensities of both scans go together (`weight_of_intensity`). A route's weight is its Dice to the power `agreement_power`.
    """

    affine: Annotated[bool, boolean()]
    zoom: Annotated[bool, boolean()]
    finest: Annotated[float, number(0.1, 100)]
    mind_radius: Annotated[int, whole(1, 10)]
    mind_dilation: Annotated[int, whole(1, 10)]
    intensity_weight: Annotated[float, number(0)]
    smoothness: Annotated[float, number(0)]
    n_steps: Annotated[int, whole(0, 10000)]
    stones: Annotated[int, whole(0, 1000)]
    agreement_power: Annotated[float, number(0, 1000)]
    searches: Searches = Searches()


@dataclass(frozen=True)
class GuidedSettings:
    """How the query's own intensities draw the border of a registered label map: the section `guided`.

    The prior is the registered map, blurred by `blur` of the thickness of the class. Foreground of a class are the voxels where
    the registered map is above `sure`; background those where the prior is above `near` but the map below `clear`. The logit is
    (discriminant, clipped to ±`clip`) + `prior_weight` · logit(prior) + `bias`. The guided filter is `filter` times as wide as
    the blur. `intensity` is the weight of what a voxel costs that has not the intensity of its class (`qnet.models.intensities`).
    """

    blur: Annotated[float, number(0, 10)]
    sure: Annotated[float, number(0, 1)]
    clear: Annotated[float, number(0, 1)]
    near: Annotated[float, number(0, 1)]
    clip: Annotated[float, number(0)]
    prior_weight: Annotated[float, number(0)]
    bias: Annotated[float, number(-100, 100)]
    filter: Annotated[float, number(0, 10)]
    filter_eps: Annotated[float, number(0, above=True)]
    intensity: Annotated[float, number(0, 100)]

    @property
    def milder(self) -> GuidedSettings:
        """The same with half the blur, an unchanged filter and twice the weight of the prior."""
        return replace(self, blur=self.blur / 2, filter=2 * self.filter, prior_weight=2 * self.prior_weight)


@dataclass(frozen=True)
class RPTSettings:
    """Which state of RPT: the section `rpt`.

    Attributes:
        form: "2023": the last prototype is the mean over the regions, and query, boundary and Dice losses. "2024": the support's
            prototype is added to that mean, and query, align, self, periphery and mse losses.
        n_regions: regional prototypes.
        corner: where the support has fewer cells than regions, take cells from the upper left corner as published. False:
            repeat those that it has.
    """

    form: Annotated[str, one_of("2023", "2024")]
    n_regions: Annotated[int, whole(1, 10000)]
    corner: Annotated[bool, boolean()]


@dataclass(frozen=True)
class GMRDSettings:
    """Which state or variant of GMRD: the section `gmrd`.

    Attributes:
        n_background, n_foreground: learned descriptors of each class.
        mix_px: side of the square grid, in pixels, on which features are mixed. The published code uses the image's, 256.
        relu: a ReLU between the two layers that mix pixels.
        edge: weights of the background's rim, "published" or "meant"; `qnet.models.gmrd.background_edge` explains them.
        extra_weight: of the two losses that pull descriptors of a class together and those of both classes apart.
    """

    n_background: Annotated[int, whole(1, 10000)]
    n_foreground: Annotated[int, whole(1, 10000)]
    mix_px: Annotated[int, whole(1, 4096)]
    relu: Annotated[bool, boolean()]
    edge: Annotated[str, one_of("published", "meant")]
    extra_weight: Annotated[float, number(0)]


@dataclass(frozen=True)
class UNetSettings:
    """How a U-Net is trained on the outlined scan: the section `unet`."""

    n_steps: Annotated[int, whole(0)]
    batch_size: Annotated[int, whole(2, 1000)]
    lr: Annotated[float, number(0, above=True)]


@dataclass(frozen=True)
class StudentSettings:
    """How a student of `guided` is trained, and how much it counts: the section `student`."""

    n_steps: Annotated[int, whole(3)]
    batch_size: Annotated[int, whole(1, 1000)]
    lr: Annotated[float, number(0, above=True)]
    share: Annotated[float, number(0, 1)]
