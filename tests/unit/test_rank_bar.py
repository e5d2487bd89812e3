import pytest

from tgsbench.tui.widgets.rank_bar import window


@pytest.mark.parametrize(
    ("chosen", "world", "room", "shown"),
    [
        (0, 8, 20, range(8)),
        (0, 64, 9, range(9)),
        (37, 64, 9, range(33, 42)),
        (63, 64, 9, range(55, 64)),
        (5, 8, 0, range(5, 6)),
        (5, 8, -3, range(5, 6)),
    ],
)
def test_the_chosen_rank_is_among_those_there_is_room_for(chosen, world, room, shown):
    assert window(chosen, world, room) == shown
    assert chosen in window(chosen, world, room)
