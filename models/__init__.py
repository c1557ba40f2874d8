"""Images and masks in, probabilities out. Nothing here knows a file, a config or a device.

Every method offers the same four calls: `encode`, `prototypes`, `segment`, `episode_losses` (see `base.FewShotModel`).
"""
