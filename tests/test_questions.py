"""docs/questions.md: every question has an answer that is checked, and names claims that exist.

`tests/reporting/test_report.py` runs the blocks, as it runs those of README.md and of the other pages.
"""

import re

import pytest

from lib import ROOT
from lib.reporting.claims import load_registry

PAGE = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
QUESTIONS = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])
TOPICS = ["scalar", "sign", "baseline", "steps", "memory", "differentiate", "batched", "0 / 0", "transformers", "text"]


def test_what_users_ask_is_there():
    assert len(QUESTIONS) == len(TOPICS)
    assert [topic for topic in TOPICS if not any(topic in question for question in QUESTIONS)] == []


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_answer_runs_and_is_checked_with_public_names_alone(question):
    blocks = re.findall(r"```python\n(.*?)```", QUESTIONS[question], re.S)
    assert blocks
    for block in blocks:
        assert re.search(r"^ *assert |assert_close", block, re.M)
        assert "from lib" in block and not re.search(r"\blib\.[\w.]*\._|import _|\w\._[a-z]", block)


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_claims_that_are_named_exist(question):
    known = {claim.id for claim in load_registry()}
    prose = re.sub(r"```.*?```", "", QUESTIONS[question], flags=re.S)
    assert {*re.findall(r"\b[A-Z]{1,2}\d+[a-k]*\b", prose)} <= known
