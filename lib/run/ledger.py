"""What decides a notebook's results, whether that has changed since it ran, and the record of its runs."""

import json
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from lib.run.notebooks import python_cells, read_notebook
from lib.run.study import DATA, Job, Study
from lib.run.verification import TABLES
from lib.store import provenance
from lib.store.digest import digest
from lib.store.files import content_digest, write_atomically
from lib.store.source import code_hash, named_files

LEDGER = "provenance.json"
REPORTED = ("claims.csv", "report.html")  # rewritten after every notebook, and in a fresh clone before any has run
REASONS = {  # part of a fingerprint -> what is said when it differs
    "versions": "versions changed",
    "code": "code changed",
    "prose": "text changed",  # the units are kept, but an executed copy is to be read
    "parameters": "parameters changed",
    "shared": "parameters changed",
    "data": "data changed",
    "inputs": "new results",
}


def fingerprint(this: Study, job: Job) -> dict[str, Mapping[str, object]]:
    """Everything that decides the results of a notebook, as {part: {name: hash or value}}."""
    notebook = read_notebook(job.path)
    cells = python_cells(notebook)
    source, prose = ([c.source for c in notebook.cells if c.cell_type == kind] for kind in ("code", "markdown"))
    own = read_json(this.state(job.name)).get("products", {})
    inputs = this.products() if job.name == "report" else {}
    name = f"notebooks/{job.path.name}"
    parts = {
        "versions": provenance.versions(),
        "code": {name: digest("\n".join(source)), **code_hash(cells=cells, root=this.root)},
        "prose": {name: digest("\n".join(prose))},
        "parameters": {n: v for n, v in job.values.items() if n not in ("output", *DATA)},
        "shared": named_files(cells, this.root / "params", root=this.root),
        "data": {n: _content(job.values[n]) for n in DATA if n in job.values},
        "inputs": {n: content_digest(p) for n, p in inputs.items() if n not in own and p.name not in REPORTED},
    }
    return json.loads(json.dumps(parts))  # as it will be read back: a tuple is a list


def _content(source: str) -> str:
    """What tells data apart: that which is packaged by its packages' versions, one's own by what the files hold."""
    return "packaged" if source in ("", "packaged") else content_digest(Path(source).expanduser())


def why(this: Study, job: Job, identity: Mapping[str, Mapping[str, object]]) -> str:
    """Reason to run a notebook with this `fingerprint`; "" when that, its results and its record are unchanged."""
    state = read_json(this.state(job.name))
    if not state:
        return "never run here"
    old = {part: state["fingerprint"].get(part, {}) for part in identity}  # an earlier version may have noted less
    reasons = []
    for part, said in REASONS.items():
        now = identity[part]
        names = [n for n in sorted({*old[part], *now}) if old[part].get(n) != now.get(n)]
        reasons += [f"{said}: {_listed(names)}"] if names else []
    existing = this.products()
    lost = [name for name in state["products"] if name not in existing]
    altered = [n for n, known in state["products"].items() if n in existing and content_digest(existing[n]) != known]
    lost += [] if job.name in read_json(this.results / LEDGER) else [f"its record in {LEDGER}"]
    reasons += [f"results missing: {_listed(lost)}"] if lost else []
    reasons += [f"results altered: {_listed(altered)}"] if altered else []
    return "; ".join(reasons)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def stamps(this: Study) -> dict[str, int]:
    """{product: modification time}, to see afterwards which ones a notebook has written."""
    return {name: path.stat().st_mtime_ns for name, path in this.products().items()}


def record(
    this: Study, job: Job, identity: dict, *, before: Mapping[str, int], beside: Collection[str], used: dict
) -> None:
    """Note a finished notebook: privately, to skip it next time; publicly, in provenance.json, with what tells whether
    a table is as it left it.

    before    `stamps` when it started: what has another one now was made since, by this notebook or by one `beside` it,
              because the run holds the output folder for itself
    beside    names of the notebooks that may have run at the same time: what begins with one is that one's
    """
    changed = [name for name, at in stamps(this).items() if at != before.get(name)]
    own = [name for name in changed if _maker(name, {job.name, *beside}) in (job.name, "")]
    made = {name: content_digest(this.output / name) for name in own}
    hidden = this.private()
    settings = {n: hidden.get(v, v) if isinstance(v, str) else v for n, v in job.values.items()}
    public = {
        "code": digest(identity["code"]),
        "parameters": digest(identity["parameters"]),
        "settings": {name: value for name, value in settings.items() if name != "output"},
        "seed": job.values.get("seed"),
        "versions": provenance.versions(),
        "tables": {path.name: made[name] for name, path in this.products().items() if name in made and _is_table(path)},
        **used,
    }
    ledger = this.results / LEDGER
    known = read_json(ledger)
    if used.get("units") and used["units"] == used["units_reused"]:  # what computed them needed more than reading them
        public["peak_memory_mb"] = max(used["peak_memory_mb"], known.get(job.name, {}).get("peak_memory_mb", 0))
    _write_json(ledger, known | {job.name: public})
    finished = time.strftime("%Y-%m-%d %H:%M")
    _write_json(this.state(job.name), {"finished": finished, "fingerprint": identity, "products": made})


def _is_table(path: Path) -> bool:
    return path.suffix in TABLES and path.name not in REPORTED


def _maker(product: str, notebooks: Collection[str]) -> str:
    """The notebook that makes a file: the report its own, every other what begins with its name; "" for other names."""
    name = Path(product).name
    fitting = [each for each in notebooks if name.startswith(each)]
    return "report" if name in REPORTED else max(fitting, key=len, default="")


def record_missing(this: Study, job: Job, needs: str) -> str:
    """Note publicly what a notebook that was not run needs, unless an earlier run left results; returns that."""
    needs = needs.removeprefix("This ")
    ledger = this.results / LEDGER
    known = read_json(ledger)
    if "code" not in known.get(job.name, {}):
        _write_json(ledger, known | {job.name: {"needs": needs}})
    return needs


def last_run(this: Study, job: Job) -> str:
    """When the notebook last ran here."""
    return read_json(this.state(job.name)).get("finished", "never")


def expected_seconds(this: Study, job: Job) -> float | None:
    """What the notebook took according to the committed record, on the machine that made it."""
    return read_json(this.committed / LEDGER).get(job.name, {}).get("seconds")


def read_json(path: Path) -> dict:
    """Content of a JSON file, {} when it does not exist or is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, value: dict) -> None:
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomically(path, text + "\n")
