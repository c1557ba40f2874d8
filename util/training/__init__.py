"""The training loop, snapshots, pretrained weights, and how a model is built from its options."""
