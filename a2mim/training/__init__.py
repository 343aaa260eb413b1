"""Training: the loop, optimisers, state on disk, fine-tuning, trackers."""
