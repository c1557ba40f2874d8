"""Methods: images and masks go in, probabilities come out. No code here knows files, the config or devices.

Every method offers the same four calls: `encode`, `prototypes`, `segment`, `episode_losses` (see `base.FewShotModel`).
"""
