"""Pre-training methods: masks, mask tokens, decoders, targets, losses, models."""
