"""What several tests of games need."""

import pytest


class Counting:
    """A game that counts what it is asked."""

    def __init__(self, game):
        self.game, self.n, self.image = game, game.n, game.image
        self.asked = []

    def __call__(self, coalitions):
        self.asked.append(coalitions.clone())
        return self.game(coalitions)


@pytest.fixture
def counting():
    """Wraps a game, so that it counts what it is asked."""
    return Counting
