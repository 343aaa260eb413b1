import gzip

import numpy as np
import pandas as pd

from a2mim.measure.invariance import read_images_table
from a2mim.runs.journal import Journal


def rows(*names):
    """Two rows of each image, those of one setting together."""
    return pd.DataFrame(
        {
            "image": [*names, *names],
            "ratio": [0.1] * len(names) + [0.2] * len(names),
            "x": np.arange(2.0 * len(names)),
        }
    )


def state(number):
    return {"batches": np.array(number), "keys": np.array(["a\tb"]), "numbers": np.eye(2) * number}


def test_it_goes_on_behind_the_last_whole_batch(tmp_path):
    journal = Journal(tmp_path, "part")
    assert journal.state is None
    journal.add(state(1), rows("b", "a"))
    # Rows of a batch whose state was not written any more
    with (tmp_path / "part.images").open("a") as file:
        file.write("c,0.1,5\nc,0.")
    again = Journal(tmp_path, "part")
    assert {key: value.tolist() for key, value in again.state.items()} == {
        key: value.tolist() for key, value in state(1).items()
    }
    again.add(state(2), rows("c"))
    again.finish(tmp_path / "images.csv.gz")
    found = read_images_table(tmp_path / "images.csv.gz")
    assert found["image"].tolist() == ["a", "a", "b", "b", "c", "c"]
    assert found["ratio"].tolist() == [0.1, 0.2] * 3
    assert found["x"].tolist() == [1, 3, 0, 2, 0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["images.csv.gz"]


def test_a_state_without_its_rows_is_not_gone_on_from(tmp_path):
    Journal(tmp_path, "part").add(state(1), rows("a"))
    (tmp_path / "part.images").write_text("image,ratio,x\na,0.1,0\n")  # a row is lost
    journal = Journal(tmp_path, "part")
    assert journal.state is None
    journal.add(state(1), rows("a"))
    journal.finish(tmp_path / "images.csv.gz")
    assert len(read_images_table(tmp_path / "images.csv.gz")) == 2


def test_images_may_have_any_name_and_the_same_rows_are_the_same_bytes(tmp_path):
    names = ["image", "NA", "b,1", 'say "c"', "two\nlines", "ü"]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        journal = Journal(tmp_path / folder, "part")
        # In one batch, or in several in another order
        for some in [names] if folder == "one" else [[name] for name in reversed(names)]:
            journal.add(state(1), rows(*some).assign(x=1.5))
        journal.finish(tmp_path / f"{folder}.csv.gz")
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()
    found = read_images_table(tmp_path / "one.csv.gz")
    assert found["image"].tolist() == [name for name in sorted(names) for _ in range(2)]
    text = gzip.decompress((tmp_path / "one.csv.gz").read_bytes()).decode()
    assert text.startswith("image,ratio,x\nNA,0.1,1.5\nNA,0.2,1.5\n")
