"""IDs of requests."""

import re

from tailproxy.proxy.requestid import new_id


def test_an_id_is_32_hexadecimal_digits_and_comes_once():
    made = [new_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in made)


def test_an_id_says_nothing_about_the_next_one():
    made = [new_id() for _ in range(1000)]
    # Any 8 digits are as good as random: none of them comes twice at the same place.
    for start in range(0, 32, 8):
        assert len({each[start : start + 8] for each in made}) > 990
