"""The methods `registration` and `guided`: outlines of a support, carried over to a query; `guided` draws their borders anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qnet.models.confidence import EVIDENCE, VANISHED, expected_dice, local_correlations, returned, same_contrast
from qnet.models.contents import CONTENT_LEVEL
from qnet.models.guided import LEAST_GAIN, blur_mm, gain, outline, thickness_mm, tried
from qnet.models.intensities import Usual, cost, in_query, without_unlike
from qnet.models.registration import PreparedScan, Registration
from qnet.models.sampling import bounds_of, column, margin_box, sample
from qnet.models.settings import GuidedSettings, RegistrationSettings
from qnet.models.volume import (
    STUDENT,
    Box,
    Guide,
    Outlines,
    Route,
    Support,
    Voice,
    VolumeModel,
    VolumeSegmentation,
    box_of,
    fuse,
    outlines_of,
    points_of,
    region,
    soft_dice,
)
from qnet.util.base.memory import return_freed_memory

CARRIED, STRONG, MILD = "registration", "own contrast", "own contrast, mild"      # how the border of a class was drawn
INTENSITY = "intensity"       # besides: what has not the intensity of the class was taken away
DRAWN_MARGIN = 8.0            # around a class whose border is drawn anew, in widths of its blur
UNSURE = 1.5                  # a carried map errs so many times as much as the zoomed registration differs from the wide one
FIT_WINDOW = 1.5              # width (σ) of the windows of the local fit, in spacings of the wide grid
LEAST_FIT = 0.05              # (1 + correlation) / 2 is not taken lower …
FIT_POWER = 4.0               # … and to this power says how much more a route counts where its image fits better
JOINT_FIT_POWER = 16.0        # the same of several supports together
AROUND = 3.0                  # a class's surroundings, in spacings of the wide grid
FIT_SLACK = 0.1               # of correlation: the mean over routes leans to those that fit
VOICE_POWER = 3.0             # of the agreement of a voice with the routes, by which it counts
HEARD = 0.1                   # of its share: a voice that counts less, as it does not agree with the routes, is not heard
HELD = 0.5, 0.95              # expected Dice, from and up to, of a class that is held to the intensities of the outlined scan
LOST = 0.3                    # of Dice: so much less comes back of what all routes found than of what the direct one found


class Carried(NamedTuple):
    """Outlines that are carried to the voxels of a box.

    Attributes:
        maps: (K, d, h, w) probabilities.
        agreement: (K,) soft Dice of those of each route with these, in the mean; of a single route, of its two registrations.
        fit: (d, h, w) local correlation of the carried images with the scan's own.
    """

    maps: Tensor
    agreement: Tensor
    fit: Tensor


class RegistrationModel(VolumeModel):
    """The support's outlines, carried over by registration, and `fuse` of several routes.

    Args:
        settings: of the registration, and of `fuse`.
    """

    def __init__(self, settings: RegistrationSettings):
        super().__init__()
        self.settings = settings

    @property
    def borders(self) -> Mapping[str, GuidedSettings]:
        """The settings by which borders are drawn anew, on stepping stones (STRONG) and on a query (MILD); none: they are not."""
        return {}

    @property
    def intensity(self) -> float:
        """How much a voxel loses that has not the intensity of its class (`qnet.models.intensities`); 0: nothing."""
        return 0.0

    def prepared(self, volume: Tensor, spacing_mm: Sequence[float]) -> PreparedScan:
        """See VolumeModel."""
        return PreparedScan(volume, spacing_mm, self.settings)

    def support(self, scan: PreparedScan, masks: Tensor) -> Support:
        """See VolumeModel."""
        outlines = outlines_of(scan, masks)
        wide_mm = scan.wide_mm
        trials = [tried(scan.images, mask, scan.spacing_mm, wide_mm, self.borders) for mask in masks.bool()]
        return Support(scan, masks.bool(), outlines, trials, [thickness_mm(mask, scan.spacing_mm) for mask in masks.bool()])

    def box(self, scan: PreparedScan, routes: Sequence[Route]) -> Box | None:
        """See VolumeModel."""
        return box_of(scan, routes, self.settings.agreement_power)

    def back(self, query: PreparedScan, support: Support) -> Registration:
        """See VolumeModel."""
        return support.scan.zoom(query, support.scan.register(query), support.around)

    @torch.no_grad()
    def on_stone(self, stone: PreparedScan, support: Support, found: Registration) -> Outlines | None:
        """See VolumeModel. How sure the map is, is taken from how far the zoomed registration differs from the wide one."""
        box = self.box(stone, [Route(support.outlines, found)])
        if box is None:
            return None
        zoomed = stone.zoom(support.scan, found, box)
        voxels, points = region(stone, box)
        wide, maps = (support.outlines.at(registration.places(points)) for registration in (found, zoomed))
        expected = 1 - UNSURE * (1 - soft_dice(wide, maps))
        drawn, _ = self.drawn(stone, maps, expected, [support], voxels, STRONG)
        return Outlines(stone, drawn.mul(255).round().byte(), voxels, (zoomed,))

    def carried(self, scan: PreparedScan, support: Support, routes: Sequence[Route], voxels: tuple[slice, slice, slice],
                points: Tensor) -> Carried:
        """Carry the outlines of a support to the voxels of a box of a scan, by each route twice (`voices`), and fuse them.

        In each voxel those count more whose image fits better.

        Args:
            points: (3, d, h, w) positions of the voxels in mm.
        """
        maps, weights = list[Tensor](), list[Tensor]()
        fit, total = torch.zeros_like(points[0]), torch.zeros_like(points[0])
        for of_voice, correlation in voices(scan, [(support, route) for route in routes], voxels, points):
            weight = ((1 + correlation) / 2).clamp_min(LEAST_FIT) ** FIT_POWER
            maps.append(of_voice)
            weights.append(weight.half())
            fit += correlation * weight
            total += weight
        carried = torch.cat([fuse([of_one[k:k + 1] for of_one in maps], self.settings.agreement_power, local=weights)
                             for k in range(len(maps[0]))])
        if len(routes) == 1:
            agreement = soft_dice(maps[0].float() / 255, maps[-1].float() / 255)
        else:
            agreement = torch.stack([soft_dice(of_one.float() / 255, carried) for of_one in maps]).mean(dim=0)
        return Carried(carried, agreement, fit / total)

    def jointly(self, scan: PreparedScan, guides: Sequence[Guide], voxels: tuple[slice, slice, slice], points: Tensor) -> Carried:
        """Carry the outlines of several supports, as `carried` does those of one.

        The local fit decides alone, and more sharply: the images of the supports differ, so it tells more. Routes to one support
        agree with each other even where it is unlike the scan, so agreement counts nothing. An eighth of each map is kept.
        """
        small, carried = list[Tensor](), torch.zeros(())
        fit, total = torch.zeros_like(points[0]), torch.zeros_like(points[0])
        routes = [(guide.support, route) for guide in guides for route in guide.routes]
        for maps, correlation in voices(scan, routes, voxels, points):
            weight = ((1 + correlation) / 2).clamp_min(LEAST_FIT) ** JOINT_FIT_POWER
            small.append(thinned(maps))
            carried = carried + weight * (maps.float() / 255)
            fit += correlation * weight
            total += weight
        carried = carried / total
        agreement = torch.stack([soft_dice(of_one.float() / 255, thinned(carried)) for of_one in small]).mean(dim=0)
        return Carried(carried, agreement, fit / total)

    def drawn(self, scan: PreparedScan, maps: Tensor, expected: Tensor, supports: Sequence[Support],
              voxels: tuple[slice, slice, slice], border: str) -> tuple[Tensor, tuple[str, ...]]:
        """Return (K, d, h, w) maps in a box of a scan with their borders drawn anew where that pays, and how each was drawn.

        Args:
            maps: carried over, in the voxels of the box.
            expected: (K,) Dice of the maps.
            border: the settings, among `borders`, that may be taken.
        """
        names, drawn, images = list[str](), maps.clone(), scan.images[(slice(None), *voxels)]
        for k, of_class in enumerate(maps):
            thickness = fmean(support.thickness_mm[k] for support in supports)
            pays = border in self.borders and fmean(
                gain(support.trials[k], border, float(expected[k])) for support in supports) > LEAST_GAIN
            names.append(border if pays else CARRIED)
            if pays:
                settings = self.borders[border]
                sigma = blur_mm(thickness, scan.wide_mm, settings)
                spans = bounds_of(of_class > settings.near)
                if spans is not None:
                    box = margin_box(spans, scan.spacing_mm, (DRAWN_MARGIN * sigma,) * 3, of_class.shape)
                    drawn[k] = 0
                    drawn[(k, *box)] = outline(images[(slice(None), *box)], of_class[box], scan.spacing_mm, sigma, settings)
        return drawn, tuple(names)

    @torch.no_grad()
    def segment(self, query: PreparedScan, guides: Sequence[Guide], box: Box) -> VolumeSegmentation:
        """See VolumeModel."""
        if not guides or not all(guide.routes for guide in guides):
            raise ValueError("routes: got none, expected at least the direct one")
        voxels, points = region(query, box)
        back = [guide.back.places(points_of(guide.support.scan, guide.support.outlines.box)) for guide in guides]
        if len(guides) > 1:
            carried = self.jointly(query, guides, voxels, points)
        else:
            carried = self.carried(query, guides[0].support, guides[0].routes, voxels, points)
            if len(guides[0].routes) > 1:
                self._save_lost(carried, query, guides[0], voxels, points, back[0])
        drawn, borders = self.drawn(query, carried.maps, carried.agreement, [guide.support for guide in guides], voxels, MILD)
        drawn, borders = heard([guide.voice for guide in guides if guide.voice is not None], drawn, borders, carried.agreement)
        evidence = self._evidence_of_all(query, guides, drawn, carried, voxels, back)
        held, borders = self.held_to_intensities(query, guides, drawn, borders, _trust(evidence), voxels, points)
        if held is not drawn:
            drawn, evidence = held, self._evidence_of_all(query, guides, held, carried, voxels, back)
        registered, probs = (torch.zeros(len(drawn), *query.image.shape, device=drawn.device) for _ in range(2))
        registered[(slice(None), *voxels)], probs[(slice(None), *voxels)] = carried.maps, drawn
        warped = guides[0].routes[0].registration.warp(guides[0].support.scan.image[None])[0]
        return VolumeSegmentation(probs, registered, _trust(evidence), warped, borders, torch.stack(evidence).mean(dim=0))

    def _evidence_of_all(self, query: PreparedScan, guides: Sequence[Guide], drawn: Tensor, carried: Carried,
                         voxels: tuple[slice, slice, slice], back: Sequence[Tensor]) -> list[Tensor]:
        """`_evidence` of each guide."""
        return [self._evidence(query, guide, drawn, carried, voxels, places) for guide, places in zip(guides, back, strict=True)]

    def held_to_intensities(self, query: PreparedScan, guides: Sequence[Guide], drawn: Tensor, borders: tuple[str, ...],
                            expected: Tensor, voxels: tuple[slice, slice, slice],
                            points: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """Return maps without what has not the intensity of its class, and how they were drawn.

        A class that hardly lies where it should has the intensities of something else, and one that certainly does could lose no
        more than voxels of its border (HELD). Both stay to the bit, and so does a class that loses no voxel. The mean over all
        outlined scans and channels counts. Their intensities are carried here by the direct route.

        Args:
            drawn: (K, d, h, w) maps in a box of the query.
            borders: how they were drawn.
            expected: (K,) Dice of them, 0 to 1.
            points: (3, d, h, w) positions of the voxels of the box in mm.
        """
        found = drawn > 0.5
        which = [k for k, of_class in enumerate(expected.tolist()) if HELD[0] <= of_class < HELD[1] and found[k].any()]
        if not which or not self.intensity:
            return drawn, borders
        images, content = query.images[(slice(None), *voxels)], query.contents[voxels]
        costs = torch.zeros(len(which), *content.shape, device=content.device)
        for guide in guides:
            scan = guide.support.scan
            places = guide.routes[0].places(points)[1]
            for image, original in zip(images, scan.images, strict=True):
                carried = sample(original[None], places / column(scan.spacing_mm, places))[0]
                both = content & (carried > CONTENT_LEVEL)
                for at, k in enumerate(which if both.any() else ()):
                    usual = Usual.of(original, guide.support.masks[k])
                    costs[at] += cost(image, found[k], usual, in_query(usual.median, image[both], carried[both]))
        costs *= self.intensity / (len(guides) * len(images))
        maps, names = list(drawn), list(borders)
        for at, k in enumerate(which):
            lowered = without_unlike(drawn[k], costs[at])
            if ((lowered > 0.5) != found[k]).any():
                maps[k], names[k] = lowered, f"{borders[k]}, {INTENSITY}"
        return (drawn, borders) if names == list(borders) else (torch.stack(maps), tuple(names))

    def _save_lost(self, carried: Carried, query: PreparedScan, guide: Guide, voxels: tuple[slice, slice, slice], points: Tensor,
                   places_back: Tensor) -> None:
        """Take a class from the direct route, in place, if the others have led it astray.

        That is so if what all routes found does not come back to the outlined scan, but what the direct route found does, and its
        image fits about as well. Repeated structures, such as vertebrae, are lost so.
        """
        def come_back(of_ways: Carried) -> Tensor:
            return returned(guide.support, of_ways.maps > 0.5, voxels, query.spacing_mm, places_back)

        of_all = come_back(carried)
        if not (of_all < 1 - LOST).any():       # the direct route cannot come back so much better
            return
        direct = self.carried(query, guide.support, guide.routes[:1], voxels, points)
        for k, lost in enumerate((come_back(direct) > of_all + LOST).tolist()):
            either = (carried.maps[k] > 0.5) | (direct.maps[k] > 0.5)
            if lost and direct.fit[either].mean() > carried.fit[either].mean() - FIT_SLACK:
                carried.maps[k], carried.agreement[k] = direct.maps[k], direct.agreement[k]
                carried.fit[either] = direct.fit[either]

    def _evidence(self, query: PreparedScan, guide: Guide, drawn: Tensor, carried: Carried,
                  voxels: tuple[slice, slice, slice], places_back: Tensor) -> Tensor:
        """(K, …) numbers of `EVIDENCE`; NaN for a class that has vanished."""
        support, back = guide.support, guide.back
        found = (drawn == drawn.amax(dim=0)) & (drawn > 0.5)
        box = support.outlines.box
        again = returned(support, found, voxels, query.spacing_mm, places_back)
        voxel_ratio = torch.tensor(query.spacing_mm).prod() / torch.tensor(support.scan.spacing_mm).prod()
        rows = []
        for k, mask in enumerate(found):
            volume = float(mask.sum() * voxel_ratio) / float(support.masks[k].sum()) * float(back_scale(back))
            if volume < VANISHED:
                rows.append([float("nan")] * len(EVIDENCE))
                continue
            near = _grown(mask, query, AROUND)
            truth = support.masks[(k, *box)]
            around = _grown(truth, support.scan, AROUND) & ~support.masks[(slice(None), *box)].any(dim=0)
            same = same_contrast(query.images[(slice(None), *voxels)], (mask, near & ~found.any(dim=0)),
                                 support.scan.images[(slice(None), *box)], (truth, around))
            kept = float(soft_dice(mask.float(), (carried.maps[k] > 0.5).float()))
            rows.append([float(carried.agreement[k]), kept, float(again[k]), float(carried.fit[near].mean()), same,
                         abs(float(torch.tensor(volume).log())), support.trials[k][1].before if support.trials else 1.0])
        return torch.tensor(rows)


def voices(scan: PreparedScan, routes: Sequence[tuple[Support, Route]], voxels: tuple[slice, slice, slice],
           points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what each route says in a box of a scan, once by its zoomed registration and once by its wide one.

    Where the zoom went astray, the wide one speaks for the others.

    Args:
        routes: each with the support that it leads to.
        points: (3, d, h, w) positions of the voxels in mm.
    Yields:
        (K, d, h, w) maps, 0 to 255, and the (d, h, w) local correlation of the support's channels with the scan's own.
    """
    maps = list[Tensor]()

    def images() -> Iterator[Tensor]:
        for support, route in routes:
            for registration in route.registration.levels:
                here, in_support = Route(route.outlines, registration).places(points)
                maps.append(route.outlines.at(here).mul(255).round().byte())
                yield sample(support.scan.images, in_support / column(support.scan.spacing_mm, in_support)).half()

    for correlation in local_correlations(scan.images[(slice(None), *voxels)], images(), scan.spacing_mm,
                                          FIT_WINDOW * scan.wide_mm):
        yield maps.pop(), correlation
        return_freed_memory()


def heard(voices: Sequence[Voice], drawn: Tensor, borders: Sequence[str], expected: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Mix the mean of several voices into maps where that pays. Return the maps, and how the border of each was drawn.

    A class that does not gain by it, or of which the voices say something else altogether, stays as it is, to the bit.

    Args:
        drawn: (K, d, h, w) maps.
        borders: how they were drawn.
        expected: (K,) Dice of the maps that were carried over, at which the voices' trials are looked up.
    """
    if not voices:
        return drawn, tuple(borders)
    mixed, names = drawn.clone(), list(borders)
    for k, name in enumerate(borders):
        if fmean(gain(voice.trials[k], STUDENT, float(expected[k])) for voice in voices) <= LEAST_GAIN:
            continue
        said = torch.stack([voice.maps[k].float() / 255 for voice in voices]).mean(dim=0)
        share = voice_share(said, drawn[k], fmean(voice.share for voice in voices), float(expected[k]))
        if share:
            mixed[k], names[k] = (1 - share) * drawn[k] + share * said, f"{name}, {STUDENT}"
    return mixed, tuple(names)


def voice_share(said: Tensor, drawn: Tensor, share: float, expected: float) -> float:
    """Return the share of a voice beside a map (d, h, w) of a class: `share`, or less where both do not agree.

    As routes are fused, it goes with the soft Dice of both to a power (VOICE_POWER): that Dice, as part of how far the routes
    agree with each other. Less than HEARD of the share is nothing.

    Args:
        expected: soft Dice of the routes with their mean.
    """
    agreed = min(1.0, float(soft_dice(said, drawn)) / max(expected, 1e-6)) ** VOICE_POWER
    return share * agreed if agreed >= HEARD else 0.0


def _trust(evidence: Sequence[Tensor]) -> Tensor:
    """Expected Dice (K,) by the evidence of each guide."""
    return torch.stack([expected_dice(of_one) for of_one in evidence]).mean(dim=0)


def thinned(maps: Tensor) -> Tensor:
    """Every second voxel of (K, d, h, w) maps along each axis, as a copy, so that the maps themselves need not stay."""
    return maps[:, ::2, ::2, ::2].clone()


def back_scale(registration: Registration) -> float:
    """How much larger a volume of the query is than it is in the support, by the affine map of the registration back."""
    return float(torch.linalg.det(registration.affine[:, :3].cpu()).abs().reciprocal())


def _grown(mask: Tensor, scan: PreparedScan, n_wide: float) -> Tensor:
    """A (d, h, w) mask with what lies within `n_wide` spacings of the wide grid."""
    grown = mask[None, None].float()
    for axis, mm in enumerate(scan.spacing_mm):
        reach = max(1, round(n_wide * scan.wide_mm / mm))
        window, pad = [1, 1, 1], [0, 0, 0]
        window[axis], pad[axis] = 2 * reach + 1, reach
        grown = F.max_pool3d(grown, tuple(window), stride=1, padding=tuple(pad))
    return grown[0, 0] > 0


class GuidedModel(RegistrationModel):
    """The carried outlines, their borders drawn by the query's own appearance (`outline`) where that pays.

    Args:
        registration: settings of the registration.
        guided: settings of the outline.
    """

    def __init__(self, registration: RegistrationSettings, guided: GuidedSettings):
        super().__init__(registration)
        self.guided = guided

    @property
    def borders(self) -> Mapping[str, GuidedSettings]:
        """See RegistrationModel."""
        return {STRONG: self.guided, MILD: self.guided.milder}

    @property
    def intensity(self) -> float:
        """See RegistrationModel."""
        return self.guided.intensity
