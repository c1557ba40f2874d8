"""TPM (MICCAI 2025): a class prior π on top of the threshold, for ADNet's head and for Q-Net's.

The logit of foreground gains logit(π). With one prototype that moves the threshold T by 2·logit(π). Training does not use the
prior; it watches which prior would have been ideal in each episode.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qnet.models.anomaly import AnomalyModel, threshold_of
from qnet.models.base import safe_log
from qnet.models.encoder import DualPathEncoder, Features
from qnet.models.mixture import fit_mixture, mixture_logits
from qnet.models.prototypes import COSINE_SCALE, anomaly_score, fuse, masked_average, pull_back
from qnet.models.refinement import refine

if TYPE_CHECKING:
    from qnet.util.base.episode import Episode

RATE = 1e-3                  # by which an episode moves the running means
MAX_LOGIT = 6.906755         # logit of 0.999
INITIAL_DISTANCE = 1.0       # of the threshold −10 from the prototype, on the unit sphere


@dataclass(frozen=True)
class Informed:
    """What is kept of B episodes.

    Attributes:
        of_head: tensors of the head, each with B in front.
        areas: (B,) share of the support's pixels that are foreground, mean over the shots.
        n_pixels: (B,) foreground pixels of the query. Only an oracle knows them.
    """

    of_head: tuple[Tensor, ...]
    areas: Tensor
    n_pixels: Tensor | None = None

    @staticmethod
    def cat(parts: Sequence[Informed]) -> Informed:
        """Join along B."""
        known = [part.n_pixels for part in parts if part.n_pixels is not None]
        return Informed(tuple(torch.cat(same) for same in zip(*(part.of_head for part in parts), strict=True)),
                        torch.cat([part.areas for part in parts]), torch.cat(known) if known else None)


class PriorStatistics(nn.Module):
    """Running means over the training episodes, from which both estimates of the prior follow. They are saved with the weights.

    The first episodes count as in a plain mean (as in Adam), so that a short training gives an average too.
    """

    moments: Tensor       # (3, 3) of cues by cues
    products: Tensor      # (3,) of cues by ideal logit
    distances: Tensor     # (1,) of ideal threshold distances

    def __init__(self) -> None:
        super().__init__()
        for name, shape in (("moments", (3, 3)), ("products", (3,)), ("distances", (1,))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def update(self, cues: Tensor, logits: Tensor, distances: Tensor) -> None:
        """Add B episodes: (B, 3) cues, (B,) ideal logits and (B,) ideal threshold distances."""
        cues, logits = cues.double(), logits.double()
        for mean, seen in ((self.moments, cues.T @ cues), (self.products, logits @ cues), (self.distances, distances.sum())):
            mean.lerp_((seen / max(len(cues), 1)).to(mean).expand_as(mean), RATE * bool(len(cues)))

    def mean_logit(self) -> Tensor:
        """Return the mean of the ideal logits; 0 before training."""
        return self.products[0] / self.moments[0, 0].clamp_min(1e-30)

    def mean_threshold(self) -> Tensor:
        """Return the threshold whose distance is the mean of the ideal ones."""
        return COSINE_SCALE * ((self.distances / self.moments[0, 0].clamp_min(1e-30)).square() / 2 - 1)

    def regression(self, cues: Tensor) -> Tensor:
        """Return (B,) logits of a linear regression on (B, 3) cues; 0 before training."""
        coefficients = torch.linalg.pinv(self.moments, rtol=1e-9, hermitian=True) @ self.products
        return cues.double() @ coefficients


class ClassPriorModel(AnomalyModel):
    """What TPM's two heads share.

    Args:
        encoder, background_weight, ignore_label, t_loss_scaler: AnomalyModel explains them.
        class_prior: "none"; "average" of the ideal prior over training; "linear" regression of it on the
            query's place in its volume and the support's area;
            "oracle", the ideal prior of the query itself, which takes its true area.
    """

    alpha: tuple[float, ...]

    def __init__(self, encoder: nn.Module, background_weight: float, ignore_label: int, t_loss_scaler: float, class_prior: str):
        super().__init__(encoder, background_weight, ignore_label, t_loss_scaler)
        self.class_prior = class_prior
        self.reads_truth = class_prior == "oracle"
        self.statistics = PriorStatistics()

    @abstractmethod
    def of_support(self, support_features: Features, support_masks: Tensor) -> tuple[Tensor, ...]:
        """Return the head's prototypes, tensors with B in front. The arguments are those of `prototypes`."""

    @abstractmethod
    def path_logits(self, query_features: Features, of_head: tuple[Tensor, ...]) -> list[Tensor]:
        """Return for each path the (B, h, w) logit of foreground without a prior."""

    def prototypes(self, support_features: Features, support_masks: Tensor) -> Informed:
        """Return the prototypes of B episodes, and the support's areas.

        Args:
            support_features: of B·S support slices.
            support_masks: (B, S, H, W) of 0 and 1.
        Raises:
            ValueError: the axes are wrong, or features and masks disagree on the number of slices.
        """
        return Informed(self.of_support(support_features, support_masks), support_masks.float().mean(dim=(1, 2, 3)))

    def told(self, prototypes: Informed, n_pixels: int) -> Informed:
        """Return the prototypes with the true area of the query slice, in pixels."""
        return replace(prototypes, n_pixels=torch.tensor([n_pixels], device=prototypes.areas.device))

    def segment(self, query_features: Features, prototypes: Informed) -> Tensor:
        """Return the (B, 2, H, W) soft mask [1 − P, P] of B query slices, in evaluation mode with the prior.

        Raises:
            ValueError: the axes are wrong, the features carry no threshold, or nobody told an oracle.
        """
        paths = self.path_logits(query_features, prototypes.of_head)
        prior = 0.0 if self.training else self._prior(paths, query_features, prototypes)
        return fuse([(logits + prior).sigmoid() for logits in paths], self.alpha, query_features.image_size)

    def segment_each(self, query_features: Features, prototypes: Sequence[Informed]) -> Tensor:
        """Return the (K, 2, H, W) soft masks of one query slice. Its features are read once for all K prototypes."""
        return self.segment(query_features, Informed.cat(prototypes))

    def losses(self, support: Features, query: Features, episode: Episode) -> dict[str, Tensor]:
        """Return the losses, and add the episodes' ideal priors to the statistics."""
        self._watch(support, query, episode)
        return super().losses(support, query, episode)

    def _prior(self, paths: list[Tensor], query: Features, prototypes: Informed) -> Tensor | float:
        """Return logit(π), (B, 1, 1) or a number."""
        if self.class_prior == "none":
            return 0.0
        if self.class_prior == "average":
            logit = (self.statistics.mean_logit() if self.t is None else
                     (self.statistics.mean_threshold() - self.learned_threshold().detach()) / 2).expand(1)
        elif self.class_prior == "linear":
            logit = self.statistics.regression(_known(cues_of(query, prototypes.areas)))
        elif prototypes.n_pixels is None:
            raise ValueError("prototypes: expected n_pixels for class prior 'oracle', got None")
        else:
            logit = ideal_logit(_joined(paths, self.alpha, query.image_size), prototypes.n_pixels)
        return logit.clamp(-MAX_LOGIT, MAX_LOGIT).to(paths[0])[:, None, None]

    @torch.no_grad()
    def _watch(self, support: Features, query: Features, episode: Episode) -> None:
        prototypes = self.prototypes(support, episode.support_masks)
        joined = _joined(self.path_logits(query, prototypes.of_head), self.alpha, query.image_size)
        n_pixels = (episode.query_masks == 1).flatten(1).sum(1)
        cues = cues_of(query, prototypes.areas)
        counts = (n_pixels > 0) & (n_pixels < joined[0].numel()) & cues.isfinite().all(1)
        logits = ideal_logit(joined, n_pixels).clamp(-MAX_LOGIT, MAX_LOGIT)
        distances = (2 * (1 + (threshold_of(query)[:, 0] + 2 * logits) / COSINE_SCALE)).clamp_min(0).sqrt()
        self.statistics.update(cues[counts], logits[counts], distances[counts])


def cues_of(query: Features, areas: Tensor) -> Tensor:
    """Return (B, 3) of 1, (z − ½)² with the query's place z in its volume, and the share of the support that is foreground.

    They are NaN where the features do not know their slices' places.

    Args:
        query: features of B slices, or of one for all areas.
        areas: (B,), or (1,) for all slices.
    """
    places = torch.full_like(areas, torch.nan) if query.positions is None else query.positions[:, 0]
    places, areas = torch.broadcast_tensors(places, areas)
    return torch.stack([torch.ones_like(areas), (places - 0.5).square(), areas], dim=1)


def _known(cues: Tensor) -> Tensor:
    if not cues.isfinite().all():
        raise ValueError("query_features: expected the positions of the slices for class prior 'linear', got None")
    return cues


def _joined(paths: list[Tensor], alpha: Sequence[float], image_size: tuple[int, int]) -> Tensor:
    """Return the (B, H, W) mean of the paths' logits with weights α. With two paths that is no more than near the fused mask."""
    wide = [weight * F.interpolate(logits.unsqueeze(1), size=image_size, mode="bilinear", align_corners=True)
            for weight, logits in zip(alpha, paths, strict=True)]
    return (torch.stack(wide).sum(dim=0) / sum(alpha)).squeeze(1)


def ideal_logit(logits: Tensor, n_pixels: Tensor) -> Tensor:
    """Return logit(π) with which as many pixels are foreground as truly are.

    Args:
        logits: (B, H, W) without a prior, or (1, H, W) for all.
        n_pixels: (B,) true numbers of foreground pixels.
    Returns:
        (B,), halfway between the last pixel inside and the first one outside.
    """
    falling = logits.flatten(1).sort(dim=1, descending=True).values.expand(len(n_pixels), -1)
    last = falling.shape[1] - 1
    inside, outside = (falling.gather(1, rank.clamp(0, last)[:, None])[:, 0] for rank in (n_pixels - 1, n_pixels))
    return -(inside + outside) / 2


class TPM(ClassPriorModel):
    """ADNet with a class prior, and with several prototypes if so wanted.

    The threshold is learned by its distance from the prototype on the unit sphere, which a softplus keeps positive.

    Args:
        encoder: a SinglePathEncoder.
        n_prototypes: 1, the masked average; more are found by `fit_mixture`.
        background_weight, ignore_label, t_loss_scaler: AnomalyModel explains them.
        class_prior: ClassPriorModel explains it.
    """

    alpha = (1.0,)

    def __init__(self, encoder: nn.Module, n_prototypes: int, background_weight: float, ignore_label: int,
                 t_loss_scaler: float, class_prior: str):
        super().__init__(encoder, background_weight, ignore_label, t_loss_scaler, class_prior)
        self.n_prototypes = n_prototypes
        self.t = nn.Parameter(torch.tensor([INITIAL_DISTANCE]).expm1().log())

    def learned_threshold(self) -> Tensor:
        """Return T = 20·(d²/2 − 1) with the distance d = softplus(t)."""
        assert self.t is not None
        return COSINE_SCALE * (F.softplus(self.t).square() / 2 - 1)

    def of_support(self, support_features: Features, support_masks: Tensor) -> tuple[Tensor, ...]:
        """Return (B, K, C) prototypes and their (B, K) shares."""
        average = masked_average(support_features.maps[0], support_masks)                        # (B, C)
        if self.n_prototypes == 1:
            return average.unsqueeze(1), torch.ones_like(average[:, :1])
        B, S = support_masks.shape[:2]
        h, w = support_features.maps[0].shape[-2:]
        weights = pull_back(support_masks.to(average), (h, w)).reshape(B, -1)                     # (B, S·h·w)
        cells = support_features.maps[0].flatten(2).unflatten(0, (B, S)).transpose(1, 2).flatten(2)   # (B, C, S·h·w)
        return fit_mixture(cells, weights, self.n_prototypes)

    def path_logits(self, query_features: Features, of_head: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the (B, h, w) logit of the one path."""
        means, shares = of_head
        return [mixture_logits(query_features.maps[0], means, shares, threshold_of(query_features))]

    def log_probs_and_mask(self, features: Features, prototypes: Informed) -> tuple[Tensor, Tensor]:
        """Return the (B, 2, H, W) log-probabilities and the (B, h, w) hard mask, as ADNet does."""
        logits, = self.path_logits(features, prototypes.of_head)
        return safe_log(fuse([logits.sigmoid()], self.alpha, features.image_size)), (logits > 0).float()


class QNetTPM(ClassPriorModel):
    """Q-Net with a class prior, which moves the threshold that is predicted from the query.

    Its arguments are those of QNet, and `class_prior`. Prototypes are refined by the threshold as predicted.
    """

    def __init__(self, encoder: DualPathEncoder, alpha: Sequence[float], n_iters: int, background_weight: float,
                 ignore_label: int, t_loss_scaler: float, class_prior: str):
        super().__init__(encoder, background_weight, ignore_label, t_loss_scaler, class_prior)
        self.alpha, self.n_iters = tuple(alpha), n_iters

    def of_support(self, support_features: Features, support_masks: Tensor) -> tuple[Tensor, ...]:
        """Return one (B, C) prototype per path."""
        return tuple(masked_average(feature_map, support_masks) for feature_map in support_features.maps)

    def path_logits(self, query_features: Features, of_head: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the (B, h, w) logit of each path, in evaluation mode from refined prototypes."""
        threshold = threshold_of(query_features)
        pairs = list(zip(query_features.maps, of_head, strict=True))
        if not self.training:
            pairs = [(feature_map, refine(feature_map, p, threshold, self.n_iters)) for feature_map, p in pairs]
        return [0.5 * (threshold.unsqueeze(2) - anomaly_score(feature_map, p)) for feature_map, p in pairs]
