"""util/base/errors.py: names in messages."""

import pytest

from qnet.util.base.errors import listed


@pytest.mark.parametrize(("names", "most", "said"), [
    ([], 5, ""), (["a"], 5, "a"), (["a", "b"], 2, "a, b"), (["a", "b", "c", "d"], 2, "a, b and 2 more")])
def test_of_many_names_the_first_are_listed(names, most, said):
    assert listed(names, most) == said
