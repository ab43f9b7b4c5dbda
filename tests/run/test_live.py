"""Two notebooks at a time: their lines, their times, and what each is credited with."""

import contextlib
import os
import time
from types import SimpleNamespace

import pytest
from tiny_project import TABLE, write_notebook

from lib import InputError
from lib.run import reproduction
from lib.run.ledger import read_json
from lib.run.live import Line, clock
from lib.run.reproduction import reproduce
from lib.run.study import jobs_of, study
from lib.store.workers import ADDRESS

MEET = """
import time
from pathlib import Path
Path("{own}-is-there").touch()
end = time.monotonic() + 300
while not Path("{other}-is-there").exists():
    assert time.monotonic() < end, "the other notebook does not run"
    time.sleep(0.05)
"""


@pytest.fixture
def workers(monkeypatch):
    """A cluster that nobody asks: what tells the runner that workers compute."""

    @contextlib.contextmanager
    def somewhere(count, *, address):
        monkeypatch.setenv(ADDRESS, "tcp://127.0.0.1:1")
        yield "Workers: none"
        monkeypatch.delenv(ADDRESS)

    monkeypatch.setattr(reproduction, "workers_for", somewhere)


def test_two_notebooks_run_at_a_time_and_the_report_after_both(root, workers):
    write_notebook(root, "first", MEET.format(own="first", other="first_b"), TABLE.format(name="first-x", value=1))
    write_notebook(root, "first_b", MEET.format(own="first_b", other="first"), TABLE.format(name="first_b", value=1))
    both = "import json\nfrom pathlib import Path\n"
    both += "assert {'first', 'first_b'} <= set(json.loads(Path('results/laptop/provenance.json').read_text()))"
    write_notebook(root, "report", both)
    this = study("laptop", root=root)
    assert reproduce(this) == 0
    made = {name: list(read_json(this.state(name))["products"]) for name in ("first", "first_b", "report")}
    assert made == {"first": ["results/laptop/first-x.csv"], "first_b": ["results/laptop/first_b.csv"], "report": []}
    assert ADDRESS not in os.environ


def test_without_workers_they_run_one_after_the_other(root):
    write_notebook(root, "second", "from pathlib import Path\nassert Path('results/laptop/first.csv').exists()")
    assert reproduce(study("laptop", root=root)) == 0


def test_a_full_disk_ends_the_notebook_beside_it(root, workers):
    write_notebook(root, "first", MEET.format(own="first", other="second"), "raise OSError(28, 'No space left')")
    write_notebook(root, "second", MEET.format(own="second", other="first"), "import time\ntime.sleep(1200)")
    start = time.monotonic()
    with pytest.raises(InputError, match="The disk is full"):
        reproduce(study("laptop", root=root))
    assert time.monotonic() - start < 600
    assert not (root / "results" / "laptop" / "notebooks" / "second.ipynb").exists()


def test_the_seconds_of_a_notebook_are_its_own_and_those_of_its_units_shared_by_the_workers(monkeypatch, root):
    now = iter((100.0, 130.0))
    monkeypatch.setattr(reproduction.time, "monotonic", lambda: next(now))
    used = {"waited": 22.0, "unit_seconds": 60.0, "workers": 2}  # for units; some were kept, or it waited for others'
    monkeypatch.setattr(reproduction, "execute", lambda *_, **__: dict(used))
    this = study("laptop", root=root)
    turn = reproduction.Turn("first", jobs_of(this, "first")[0], {}, {})
    found = reproduction._run(this, turn, SimpleNamespace(line=lambda *_: contextlib.nullcontext()), None)
    assert found == {"seconds": 38.0, "own_seconds": 8.0, "unit_seconds": 60.0, "workers": 2}


def test_a_line_keeps_the_last_that_says_something():
    line = Line("title", 90)
    for text in ("first\nsecond\n", "\r 10%|", "\r 20%|", "\r      ", "\r"):
        line.write(text)
    assert str(line) == "title  0:00 of about 1:30  20%|"


def test_clock():
    assert [clock(s) for s in (7, 59.6, 754.2, 3723)] == ["0:07", "1:00", "12:34", "1:02:03"]
