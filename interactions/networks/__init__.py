"""Networks: batches in a stated arithmetic, masked images or tokens, features by layer."""
