"""The page of claims: all that the records say, from the template report.html.j2, in a file that needs no other."""

import re
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import jinja2
from markupsafe import Markup, escape

from lib import ROOT, InputError
from lib.reporting.cards import exclusions_block
from lib.reporting.claims import PAPERS, Claim
from lib.reporting.embedded import embedded, figure_entry
from lib.reporting.entries import VERDICTS, WHOSE, Record, claim_entry, first_decided
from lib.reporting.records import headlines, times_table, took
from lib.reporting.rendered import Caption
from lib.store.files import read_yaml

TEMPLATE, STYLE, SCRIPT = "report.html.j2", "page.css", "page.js"
ABOUT_PAPERS = ROOT / "params" / "papers.yaml"
FIELDS = ("sentence", "picture", "crop", "easy", "hard", "changed", "excluded")  # of a paper in papers.yaml
PLAIN = ("device", "workers", "seconds", "peak_memory_mb", "seed", "code", "parameters")  # of a notebook's provenance


def page_of(
    records: list[Record],
    registry: list[Claim],
    *,
    profile: str,
    figures: dict[str, bytes],
    captions: dict[str, Caption],
    beside: Mapping[str, bytes] = MappingProxyType({}),
) -> str:
    """The HTML page of the results of `profile`, beside the other records.

    records   the one that can decide most first
    figures   {name: content of its PNG or JPEG} of this profile; captions: {name: what its notebook says of it}
    beside    figures of the other records, for the pictures of papers that this one has not drawn
    """
    tables = [dict(iter(record.claims.groupby("claim", sort=False))) for record in records]
    rows = {claim.id: [[*of[claim.id].itertuples()] if claim.id in of else [] for of in tables] for claim in registry}
    drawn = [figure_entry(name, content, captions.get(name)) for name, content in figures.items()]
    papers = _papers(registry, rows, records, {**beside, **figures}, drawn)
    claims = [claim_entry(claim, rows[claim.id], records, registry, drawn) for claim in registry]
    counted, table = headlines({record.profile: record.claims for record in records}, registry)
    finished = [each for each in records if any("seconds" in used for used in each.provenance.values())]
    here = Path(__file__).parent
    templates = jinja2.Environment(loader=jinja2.PackageLoader("lib.reporting", "."), autoescape=True, trim_blocks=True)
    templates.filters |= {"inline": inline, "chips": chips}
    return templates.get_template(TEMPLATE).render(
        style=(here / STYLE).read_text(encoding="utf-8"),
        script=(here / SCRIPT).read_text(encoding="utf-8"),
        profile=profile,
        records=records,
        counted=counted,
        headlines=table.to_dict("records"),
        papers=papers,
        claims=claims,
        choices=_choices(claims),
        others=[figure for figure in drawn if not any(figure in paper["figures"] for paper in papers)],
        pages=next(record.pages for record in records if record.profile == profile),
        missing=_missing(rows),
        left_out={each.profile: _needs(each.provenance) for each in records if _needs(each.provenance)},
        took=took({each.profile: each.provenance for each in finished}),
        times={each.profile: times_table(each.provenance).to_dict("records") for each in finished},
        photographs=exclusions_block({each.profile: each.provenance for each in finished}).splitlines(),
        versions={each.profile: _versions(each.provenance) for each in finished},
        fields=PLAIN,
    )


def read_papers(path: Path = ABOUT_PAPERS) -> dict[str, dict]:
    """What params/papers.yaml says of each paper: {paper: its FIELDS}.

    Raises InputError, naming the paper, where one of PAPERS or one of its fields is missing, or another is there.
    """
    found = read_yaml(path)
    if set(found) != set(PAPERS):
        raise InputError(f"{path.name} is about {', '.join(found)}; it must be about {', '.join(PAPERS)}.")
    for paper, said in found.items():
        if wrong := set(said) ^ set(FIELDS):
            raise InputError(
                f"{path.name}, {paper}: {', '.join(sorted(wrong))} is missing or unknown; give {', '.join(FIELDS)}."
            )
    return found


def _papers(
    registry: list[Claim],
    rows: dict[str, list[list]],
    records: list[Record],
    pictures: dict[str, bytes],
    drawn: list[dict],
) -> list[dict]:
    """What the page says of each paper that has claims, with the counts of the verdicts on its own claims."""
    about = read_papers()
    found = []
    for key, (title, _) in PAPERS.items():
        claims = [claim for claim in registry if claim.paper == key]
        own = [claim for claim in claims if claim.whose in ("paper", "ours")]
        decided = {claim.id: first_decided([*chain(*rows[claim.id])]) for claim in claims}
        counts = Counter(decided[claim.id].verdict if decided[claim.id] else "not run" for claim in own)
        picture = pictures.get(about[key]["picture"])
        found.append(
            {
                **about[key],
                "key": key,
                "title": title,
                "thumbnail": picture and embedded(picture, tuple(about[key]["crop"])),
                "figures": [figure for figure in drawn if figure["notebook"].partition("_")[0] == key],
                "counts": [(verdict, counts[verdict]) for verdict in VERDICTS if verdict in counts],
                "own": len(own),
                "others": len(claims) - len(own),
                "excluded_from": _exclusions(claims, rows),
                "took": [*filter(None, (_core_minutes(claims, record) for record in records))],
                "not_run": [name for name, row in decided.items() if row is None],
            }
        )
    return [paper for paper in found if paper["own"] + paper["others"]]


def _core_minutes(claims: list[Claim], record: Record) -> str:
    """What the notebooks of some claims took in a record, in words."""
    used = [record.provenance.get(notebook, {}) for notebook in {claim.notebook for claim in claims}]
    finished = [each for each in used if "seconds" in each]
    minutes = sum(each["own_seconds"] + each["unit_seconds"] for each in finished) / 60
    return f"`{record.profile}` {minutes:.0f} core-minutes in {len(finished)} notebooks" if finished else ""


def _missing(rows: dict[str, list[list]]) -> dict[str, list[str]]:
    """{what is missing: claims} of what was not run, as the first record says that judged anything of the claim."""
    found: dict[str, list[str]] = {}
    for claim, records in rows.items():
        judged = [each for each in records if first_decided(each) is not None]
        for note in dict.fromkeys(
            row.note for each in judged[:1] or records for row in each if row.verdict == "not run"
        ):
            found.setdefault(note, []).append(claim)
    return found


def _exclusions(claims: list[Claim], rows: dict[str, list[list]]) -> dict[str, list[str]]:
    """{how many images or scores were left out: claims}, from the notes beside the verdicts."""
    found: dict[str, list[str]] = {}
    for claim in claims:
        for row in chain(*rows[claim.id]):
            for part in row.note.split("; "):
                if re.search(r"[1-9]\d* excluded|[1-9]\d* undefined|^[1-9]\d* of .* left out", part):
                    found.setdefault(part, []).append(claim.id)
    return {part: [*dict.fromkeys(of)] for part, of in found.items()}


def _needs(provenance: dict) -> dict[str, str]:
    return {notebook: used["needs"] for notebook, used in provenance.items() if "needs" in used}


def _versions(provenance: dict) -> dict[str, str]:
    found: dict[str, set] = {}
    for used in provenance.values():
        for name, version in used.get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}


def _choices(claims: list[dict]) -> dict[str, dict[str, str]]:
    """What each filter offers: {name of the filter: {value: words}}."""
    pairs = [pair.split("|") for claim in claims for pair in claim["found"].split(";")]
    data, verdicts = ({pair[position] for pair in pairs} for position in (0, 1))
    return {
        "paper": {claim["paper"]: claim["title"] for claim in claims},
        "whose": {key: words for key, words in WHOSE.items() if any(claim["whose"] == key for claim in claims)},
        "verdict": {verdict: verdict for verdict in VERDICTS if verdict in verdicts},
        "data": {each: each for each in sorted(data - {""})},
    }


def inline(text: str) -> Markup:
    """Plain text as HTML, with code where it stands between backticks.

    >>> inline("`make test`, n < 3")
    Markup('<code>make test</code>, n &lt; 3')
    """
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def chips(text: str) -> Markup:
    """Text in which verdicts are marked as such.

    >>> chips("digits: fails here")
    Markup('digits: <span class="verdict fails">fails here</span>')
    """
    html = str(escape(text))
    for verdict in VERDICTS:
        said = str(escape(verdict))
        html = html.replace(said, f'<span class="verdict {verdict.split()[0]}">{said}</span>')
    return Markup(html)
