"""The training loop, snapshots, pretrained weights, and building a model from its options."""
