"""The published procedure, written plainly: what the tests and scripts/checks/benchmark.py compare ours with.

Nothing is shared and nothing is kept: support and query are encoded together for every class and slice, features are upsampled
to the image to be averaged, refinement goes through autograd one slice at a time, and every training episode normalises and
scans its whole volume.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from qnet.dataloaders.transforms import GAMMA, Geometry, gamma_transform
from qnet.models.base import safe_log
from qnet.models.encoder import Features
from qnet.models.prototypes import fuse
from qnet.models.qnet import QNet
from qnet.util.base.episode import Episode


def masked_average(features: Tensor, masks: Tensor) -> Tensor:
    """(B·S, C, h, w) features and (B, S, H, W) masks → (B, C), by way of (B·S, C, H, W) upsampled features."""
    upsampled = F.interpolate(features, size=masks.shape[-2:], mode="bilinear")
    weights = masks.flatten(0, 1).unsqueeze(1)
    pooled = (upsampled * weights).sum(dim=(-2, -1)) / (weights.sum(dim=(-2, -1)) + 1e-5)
    return pooled.unflatten(0, masks.shape[:2]).mean(dim=1)


def foreground_probability(features: Tensor, prototype: Tensor, threshold: Tensor) -> Tensor:
    """(B, C, h, w) features, (1, C) prototype, (1, 1) threshold → (B, h, w)."""
    score = -20 * F.cosine_similarity(features, prototype[:, :, None, None], dim=1)
    return 1 - torch.sigmoid(0.5 * (score - threshold.unsqueeze(2)))


def refine(features: Tensor, prototype: Tensor, threshold: Tensor, n_iters: int) -> Tensor:
    """One slice's refinement: (1, C, h, w) features, (1, C) prototype, (1, 1) threshold → (1, C)."""
    def squash(x: Tensor) -> Tensor:
        return torch.sigmoid((x - x.min()) / (x.max() - x.min()))

    with torch.enable_grad():
        p = torch.nn.Parameter(prototype.clone())
        optimizer = torch.optim.Adam([p], lr=0.01)
        for _ in range(n_iters):
            foreground = foreground_probability(features, p, threshold).detach()
            mask = torch.stack([1 - foreground, foreground], dim=1).argmax(dim=1, keepdim=True).bool()
            replaced = torch.where(mask, p[:, :, None, None], features)
            optimizer.zero_grad()
            F.binary_cross_entropy(squash(features), squash(replaced)).backward()
            optimizer.step()
    return p.detach()


def head(query: Features, prototypes: tuple[Tensor, ...], alpha: tuple[float, float], n_iters: int) -> Tensor:
    """Refine and segment the slices of a batch one after the other; (B, 2, H, W)."""
    slices = []
    for k in range(len(query)):
        one = query[k:k + 1]
        refined = [refine(maps, p, one.threshold, n_iters) for maps, p in zip(one.maps, prototypes, strict=True)]
        probs = [foreground_probability(maps, p, one.threshold) for maps, p in zip(one.maps, refined, strict=True)]
        slices.append(fuse(probs, alpha, one.image_size))
    return torch.cat(slices)


@torch.no_grad()
def segment_slice(model: QNet, support: np.ndarray, support_mask: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Segment an (H, W) query slice from an (H, W) support slice and its mask; bool (H, W)."""
    images = torch.from_numpy(np.stack([support, query])).unsqueeze(1).repeat(1, 3, 1, 1)
    features = model.encoder(images)
    mask = torch.from_numpy(support_mask.astype(np.float32))[None, None]
    prototypes = tuple(masked_average(maps[:1], mask) for maps in features.maps)
    return head(features[1:], prototypes, model.alpha, model.n_iters).argmax(dim=1)[0].bool().numpy()


def episode_loss(model: QNet, episode: Episode) -> Tensor:
    """Total loss of one 1-shot episode (batch axis of 1)."""
    def segment(maps: tuple[Tensor, ...], threshold: Tensor, prototypes: list[Tensor]) -> Tensor:
        probs = [foreground_probability(path, p, threshold) for path, p in zip(maps, prototypes, strict=True)]
        return fuse(probs, model.alpha, episode.query_masks.shape[-2:])

    features = model.encoder(torch.cat([episode.support_images[0], episode.query_images]))
    support, query, threshold = features[:1].maps, features[1:].maps, features[1:].threshold
    probs = segment(query, threshold, [masked_average(path, episode.support_masks) for path in support])
    loss = F.nll_loss(safe_log(probs), episode.query_masks.long(), model.class_weights, ignore_index=model.ignore_label)
    predicted = probs.argmax(dim=1, keepdim=True).float()
    if predicted.any():
        swapped = segment(support, threshold, [masked_average(path, predicted) for path in query])
        loss = loss + F.nll_loss(safe_log(swapped), episode.support_masks[0].long())
    return loss


def load_episode(images: list[np.ndarray], classes: list[np.ndarray], rng: np.random.Generator, min_size: int = 200) -> Episode:
    """Draw a 1-shot episode from raw (D, H, W) images and supervoxels as published: by trial, scanning the volume each time."""
    k = rng.integers(len(images))
    image, supervoxels = images[k], classes[k]
    image = (image - image.mean()) / image.std()
    image = np.stack(3 * [image], axis=1)
    labels = np.unique(supervoxels)
    largest = -1
    while largest < min_size:
        label = rng.choice(labels[labels != 0])
        slices = np.flatnonzero((supervoxels == label).any(axis=(1, 2)))
        runs = [run for run in np.split(slices, np.flatnonzero(np.diff(slices) > 1) + 1) if len(run) >= 2]
        if runs:
            run = runs[rng.integers(len(runs))]
            start = rng.integers(len(run) - 1)
            chosen = run[start:start + 2]
            largest = max((supervoxels[z] == label).sum() for z in chosen)
    chosen = chosen[::-1] if rng.random() < 0.5 else chosen
    masks = (supervoxels == label).astype(np.float32)
    pictures, outlines = [image[z] for z in chosen], [masks[z] for z in chosen]
    k = rng.integers(2)
    pictures[k] = gamma_transform(pictures[k], rng.uniform(*GAMMA))
    k = rng.integers(2)
    geometry = Geometry.sample(rng, outlines[k].shape)
    pictures[k] = np.stack([geometry.apply(channel) for channel in pictures[k]])
    outlines[k] = np.round(geometry.apply(outlines[k]))
    support, query = (torch.from_numpy(picture.astype(np.float32)) for picture in pictures)
    return Episode(support[None], torch.from_numpy(outlines[0])[None], query, torch.from_numpy(outlines[1]))
