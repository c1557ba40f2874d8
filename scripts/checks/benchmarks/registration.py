"""A registration against the path of the package convexAdam, and the outlines of a scan without training (`guided`)."""

from __future__ import annotations

import functools
import statistics
import warnings
from dataclasses import replace

import numpy as np
import torch

from qnet.dataloaders.volumes import Volume, read_volume
from qnet.models.contents import scaled
from qnet.models.registration import Registration, register
from qnet.models.sampling import column, grid_mm, mapped, sample
from qnet.models.settings import RegistrationSettings, Searches
from qnet.scripts.checks.benchmarks.bench import LABELS, Bench, Measured, Result, freed_memory_handed_back
from qnet.util.engine.metrics import dice
from qnet.util.options.config import base_config
from qnet.util.options.sections import section
from qnet.util.predict.predictor import Predictor

with warnings.catch_warnings():   # the package silences all warnings of the process when it is imported
    from convexAdam.convex_adam_MIND import convex_adam_pt

AS_USED = section(RegistrationSettings, base_config()["registration"])
# what the package does: one search from the start that it is given, on MIND features alone
AS_PACKAGE = replace(AS_USED, affine=False, zoom=False, intensity_weight=0.0)
SIMILAR, MAY_LOSE = 0.8, 0.02       # of the Dice between the label maps that both carry over, and of that with the truth
ALLOWED_S = 30.0                    # for a scan


def registration(bench: Bench) -> Measured:
    """Register one support to one query: as the programs do, and at the package's settings against the package itself."""
    query, support = pair(bench)
    work = {"plain": functools.partial(_plainly, query, support, _ours(query, support, bench.device, AS_PACKAGE), bench.device),
            "ours": functools.partial(_ours, query, support, bench.device, AS_PACKAGE),
            "as_used": functools.partial(_ours, query, support, bench.device, AS_USED)}
    maps = {name: carried(register_it(), support) for name, register_it in work.items()}
    with_truth = {name: mean_dice(of_one, query.labels) for name, of_one in maps.items()}
    between = mean_dice(maps["ours"], maps["plain"])
    seconds = dict(zip(work, bench.alternate(*work.values(), repeats=bench.repeats), strict=True))
    as_used = f"{'×'.join(map(str, query.image.shape))} voxels, with the affine start; mean Dice of the labels carried over " \
              f"{with_truth['as_used']:.3f}"
    compared = f"the same search and steps from the same start; mean Dice of the labels carried over: plain " \
               f"{with_truth['plain']:.3f}, ours {with_truth['ours']:.3f}, between both {between:.3f}"
    agree = between > SIMILAR and with_truth["ours"] > with_truth["plain"] - MAY_LOSE
    results = {"registration": Result(None, seconds["as_used"], None, as_used, peak_mb=bench.peak_mb("registration")),
               "registration_as_package": Result(seconds["plain"], seconds["ours"], agree, compared,
                                                 peak_mb=bench.peak_mb("registration_as_package"))}
    peak = bench.peak_mb("registration_plain")
    return Measured(results, [] if peak is None else [f"peak memory of registration by the package: {peak:.0f} MB"])


def pair(bench: Bench) -> tuple[Volume, Volume]:
    """Return the first two scans of the fold, as query and support."""
    support, query = (read_volume(case, bench.spec) for case in bench.fold_cases()[:2])
    return query, support


def _ours(query: Volume, support: Volume, device: torch.device, settings: RegistrationSettings) -> Registration:
    return register(_tensor(query, device), _tensor(support, device), query.spacing_mm, support.spacing_mm, settings)


def _plainly(query: Volume, support: Volume, start: Registration, device: torch.device) -> Registration:
    with freed_memory_handed_back():
        return by_package(query, support, start, device)


def by_package(query: Volume, support: Volume, start: Registration, device: torch.device) -> Registration:
    """Register by `convex_adam_pt` of the package, at the settings `AS_PACKAGE`.

    Args:
        start: its affine map and grid are taken. The package has neither, and wants both volumes on one grid.
    """
    settings, (on,) = AS_PACKAGE, start.displacements
    points = grid_mm(on.shape, on.spacing_mm, device) + column(on.origin_mm, start.affine, device)
    places = mapped(start.affine, points)
    volumes = (sample(scaled(_tensor(volume, device))[None], at / column(volume.spacing_mm, at))[0]
               for volume, at in ((query, points), (support, places)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)    # it leaves align_corners to its default
        voxels = convex_adam_pt(*volumes, mind_r=settings.mind_radius, mind_d=settings.mind_dilation,
                                lambda_weight=settings.smoothness, grid_sp=settings.searches.wide.cell,
                                disp_hw=settings.searches.wide.reach, selected_niter=settings.n_steps,
                                dtype=torch.float32, device=device)
    moved = replace(on, voxels=torch.from_numpy(voxels).float().movedim(-1, 0)[None].to(device))
    return replace(start, displacements=(moved,))


def _tensor(volume: Volume, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(volume.image, np.float32)).to(device)


def carried(found: Registration, support: Volume) -> np.ndarray:
    """Return the (D, H, W) label map of the support, carried over to the query."""
    masks = torch.from_numpy(np.stack([support.labels == label for label in LABELS])).float().to(found.affine.device)
    best, which = found.warp(masks).max(dim=0)
    return torch.where(best > 0.5, which + 1, 0).cpu().numpy()


def mean_dice(found: np.ndarray, other: np.ndarray) -> float:
    """Return the mean Dice of all labels in two (D, H, W) label maps."""
    return statistics.mean(dice(found == label, other == label) for label in LABELS)


def one_registration(bench: Bench, settings: RegistrationSettings = AS_USED) -> None:
    """Register one support to one query."""
    _ours(*pair(bench), bench.device, settings)


def one_registration_plainly(bench: Bench) -> None:
    """Register one support by the package. Its start is that of a small search, which needs less memory than the package."""
    query, support = pair(bench)
    small = replace(AS_PACKAGE, n_steps=0, searches=Searches(wide=replace(AS_PACKAGE.searches.wide, reach=1)))
    _plainly(query, support, _ours(query, support, bench.device, small), bench.device)


def guided(bench: Bench) -> Measured:
    """Outline one scan from one support, four classes, without stepping stones and with them."""
    results, scan = {}, bench.fold_cases()[1]
    truth = read_volume(scan, bench.spec).labels
    for name, with_stones in (("guided", False), ("guided_stones", True)):
        predictor = guided_predictor(bench, with_stones)
        segment = functools.partial(predictor.segment, scan.image)
        found, first = bench.timed(segment)
        seconds = statistics.median(bench.timed(segment)[1] for _ in range(1 if bench.quick else bench.repeats))
        note = (f"{len(predictor.stones)} stepping stones, the first scan {first:.3g} s; mean Dice "
                f"{mean_dice(found.label_map, truth):.3f}")
        results[name] = Result(None, seconds, None, note, allowed_seconds=ALLOWED_S, peak_mb=bench.peak_mb(name))
    return Measured(results)


def guided_predictor(bench: Bench, with_stones: bool) -> Predictor:
    """Return a predictor with the first scan of the fold as its support. Scans outside the fold are stones."""
    of_fold = bench.fold_cases()
    predictor = Predictor.untrained("guided", device=str(bench.device))
    predictor.add_support(of_fold[0].image, of_fold[0].label)
    if with_stones:
        for stone in [case for case in bench.cases if case not in of_fold][:1 if bench.quick else predictor.n_stones]:
            predictor.add_stone(stone.image)
    return predictor


def one_guided_scan(bench: Bench, with_stones: bool = False) -> None:
    """Outline one scan."""
    guided_predictor(bench, with_stones).segment(bench.fold_cases()[1].image)
