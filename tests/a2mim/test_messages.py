from a2mim.messages import did_you_mean, in_a_line


def test_an_error_of_several_lines_is_one():
    assert in_a_line(ValueError("two\nlines")) == "ValueError: two lines"


def test_near_names_are_the_end_of_a_message():
    known = ("resnet50", "resnet18", "vit_tiny")
    assert did_you_mean("resnet5", known) == "; did you mean resnet50?"
    assert did_you_mean("resnet5", known, most=2) == "; did you mean resnet50, resnet18?"
    assert did_you_mean("moganet", known, cutoff=0.9) == ""
