import pandas as pd
import torch

from a2mim.measure.probe_tables import Number, mean_rows, predictions_of, rows_of, summary
from interactions import stats

NUMBER = Number(
    *("knn_top1", 0.5, (0.25, 0.75), "k=3", 100, 7),
    *(torch.tensor([1, 0]), torch.tensor([1, 1]), {}, (1,)),
)


def test_a_number_and_the_ends_of_its_interval():
    rows = rows_of(NUMBER)
    assert rows[["measure", "value"]].values.tolist() == [
        ["knn_top1", 0.5],
        ["knn_top1_low", 0.25],
        ["knn_top1_high", 0.75],
    ]
    assert set(rows["samples"]) == {2}
    assert set(rows["seed"]) == {7}


def test_predictions_are_of_the_images_that_could_be_read():
    assert predictions_of(NUMBER).values.tolist() == [
        ["knn_top1", 7, 0, 1, 1],
        ["knn_top1", 7, 2, 1, 0],
    ]


def test_what_is_printed_has_a_line_for_each_number_in_per_cent():
    mean = stats.mean([0.5, 0.6], low=0, high=1)
    rows = pd.concat([rows_of(NUMBER), mean_rows("knn_top1", mean, 2, 100, "seeds=2")])
    low = round(100 * max(mean.low, 0), 2)
    shown = summary(rows.assign(model="vit", weights="mine"))
    assert shown.values.tolist() == [
        ["vit", "mine", "knn_top1", 7, 50.0, 25.0, 75.0, 2, "k=3"],
        ["vit", "mine", "knn_top1_mean", -1, 55.0, low, 100.0, 2, "seeds=2"],
    ]
