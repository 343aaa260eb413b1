"""The benchmark: the toolkit against bare models and the published design."""
