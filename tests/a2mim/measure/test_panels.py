import pytest

from a2mim.cli import main
from a2mim.measure import interactions, panels


def test_a_budget_that_tells_nothing_of_interactions_is_one_line(
    compared, tmp_path, hastened, monkeypatch, capsys
):
    """With the whole budget that would do, and nothing is left of it."""
    asked, measure = [], panels.interaction_curves

    def watched(config):
        try:
            measure(config)
        except interactions.BudgetError as error:
            asked.append((config.budget, error.enough))
            raise

    monkeypatch.setattr(panels, "interaction_curves", watched)
    monkeypatch.setattr(interactions, "TOO_LITTLE", 0.3)
    small = [compared["one"], compared["other"], "--images", str(compared["photos"])]
    small += ["--grid", "4", "--skip", "similarity", "spectrum", "--device", "cpu"]
    small += ["--pictures", "0"]
    small += ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as error:
        main(["compare", *small, "--budget", "6500"])
    assert error.value.code == 2
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("a2mim: interactions: expected a budget that tells J to within 30 %, ")
    assert not list(tmp_path.iterdir())
    ((of_interactions, enough),) = asked
    assert enough > of_interactions
    others = 6500 - of_interactions
    assert others == 12 * 10  # ten hidden shares
    assert f"; give --budget {enough + others}, or --skip interactions" in line
