"""Games: what a network, or a formula, says of a coalition of players."""
