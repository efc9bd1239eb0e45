"""The README's examples run and do what it says."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("source", EXAMPLES, ids=lambda source: source.splitlines()[1][:40])
def test_example_runs(source):
    exec(compile(source, "README.md", "exec"), {})


def test_the_trainer_learns(capsys):
    trainer = next(source for source in EXAMPLES if "norm.backward" in source)
    scope = {}
    exec(compile(trainer, "README.md", "exec"), scope)
    assert float(capsys.readouterr().out) < 0.05 * scope["target"].var()
