import json

import pandas as pd

from experiments.cifar10 import report, tables
from experiments.cifar10.plan import Plan
from experiments.cifar10.sizes import TINY


def test_nothing_to_draw_is_said(tmp_path, capsys):
    report.main(tmp_path)
    assert "no study" in capsys.readouterr().out


def test_a_folder_is_redrawn_from_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(report.figures, "draw", lambda folder, plan: ["orders"])
    own = {"arch": "vit", "measure": "accuracy", "setting": "", "at": 0.0}
    rows = pd.DataFrame(
        [
            own | {"arm": arm, "seed": seed, "image": f"{k}", "value": float(k > seed)}
            for arm in ("a2mim", "simmim")
            for seed in range(2)
            for k in range(5)
        ]
    )[list(tables.ROWS)]
    tables.write_rows(rows, tmp_path / "rows.csv.gz")
    Plan(TINY, {}, "3", 180.0, "cpu", "images").write(tmp_path / "plan.json")
    (tmp_path / "progress.json").write_text(json.dumps({"done": 1, "stages": 2}))
    assert report.redrawn(tmp_path) == ["orders"]
    page = (tmp_path / "README.md").read_text()
    assert "A2MIM above SimMIM in fine-tuned accuracy, ViT | +0.000" in page
    assert len(pd.read_csv(tmp_path / "differences.csv")) == 1
