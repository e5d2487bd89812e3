from tgsbench.tui.widgets.segments import seven_segment


def test_digits_are_three_lines_of_one_width_in_ascii():
    lines = seven_segment("1,203.45-6789?").split("\n")
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert "".join(lines).isascii()


def test_digits_differ_from_each_other():
    assert len({seven_segment(digit) for digit in "0123456789"}) == 10
