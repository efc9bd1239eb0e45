"""The tables of `tests.tiers` speak of tests that there are, and leave none of them to the night alone."""

import re
from collections import defaultdict

import pytest

from tests import tiers

ENTRIES = [
    pytest.param(marker, part, test, pattern, id=f"{marker}, {part}, {test}")
    for marker, table in (("slow", tiers.SLOW), ("nightly", tiers.NIGHTLY))
    for part, tests in table.items()
    for test, pattern in tests.items()
]
_OR = re.compile(r"\|(?![^(]*\))")  # not within a group; no group has another one after its first alternative


@pytest.fixture(scope="module")
def collected(pytestconfig):
    """For a part and a test each variant and its markers."""
    found = defaultdict(list)
    for item in pytestconfig.stash[tiers.COLLECTED]:
        variant = tiers.variant(item) if hasattr(item, "callspec") else ""
        found[tiers.part(item), tiers.name(item)].append((variant, {marker.name for marker in item.iter_markers()}))
    return found


@pytest.mark.parametrize(("marker", "part", "test", "pattern"), ENTRIES)
def test_each_pattern_marks_some_variants_and_not_all(marker, part, test, pattern, collected):
    if part not in {collected_part for collected_part, _ in collected}:
        pytest.skip(f"{part} is not of this run, or skipped as a whole")
    variants = collected[part, test]
    of_the_marker = [variant for variant, markers in variants if marker in markers]
    for alternative in _OR.split(pattern):
        assert any(re.search(alternative, variant) for variant in of_the_marker), alternative
    if len(variants) == 1:  # of this device: then the host's runs always
        variants = collected[part.replace("emulated", "host"), test]
    assert any(marker not in markers for _, markers in variants)
    assert any("nightly" not in markers for _, markers in variants)


@pytest.mark.parametrize("part", tiers.FIRST)
def test_parts_that_come_first_are_there(part, pytestconfig):
    file, _, device = part.partition(" on ")
    assert list((pytestconfig.rootpath / "tests").rglob(f"{file}.py"))
    assert device in ("", "host", "emulated")
