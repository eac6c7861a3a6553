"""The laws, held against every registered module. A new one is tested by being registered."""

import pytest

from ostinato.laws import LAWS, cases


@pytest.mark.parametrize("case", list(cases()), ids=str)
@pytest.mark.parametrize("law", LAWS)
def test_law(law, case):
    LAWS[law](case)
