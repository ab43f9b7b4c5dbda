"""Executed notebooks as pages that need no network: formulas are MathML, figures are links to their files.

A figure's bytes are in the notebook as they are in its file, so that the file is found by its content. The pages do not
repeat the figures: a record would be half as large again.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from html import escape
from pathlib import Path
from typing import NamedTuple

import jinja2
import nbformat

from lib.store.digest import digest
from lib.store.files import write_atomically

TEMPLATE, STYLE = "notebook.html.j2", "page.css"
PICTURES = ("image/png", "image/jpeg")
SHOWN = (*PICTURES, "text/html", "text/markdown", "text/plain")  # what an output may be on a page; scripts may not


WIDGET = "application/vnd.jupyter.widget-view+json"
INTERACTIVE = "This part is interactive: open the notebook with `make explore` or `make lab`."


class Caption(NamedTuple):
    """What a notebook says of a figure: the heading above it, the paragraph before it (HTML), and in which cell."""

    title: str
    text: str
    cell: str


def render_notebooks(results: Path, figures: Path) -> dict[str, Caption]:
    """Write pages/<name>.html for every notebooks/<name>.ipynb in a folder of results; returns {figure: its caption}.

    The notebook `report` has no page, because the page of claims says the same. A page whose notebook, figures and
    template are as they were is left alone; one whose notebook is gone is removed.
    """
    drawn = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in sorted(figures.glob("[!.]*.[pj]*g"))}
    copies = [path for path in sorted((results / "notebooks").glob("[!.]*.ipynb")) if path.stem.isidentifier()]
    texts = {path.stem: path.read_text(encoding="utf-8") for path in copies if path.stem != "report"}
    found, how = {}, digest(notebook_page)
    for name, text in texts.items():
        shown = {key: caption for key, caption in _captions(text).items() if key in drawn}
        found |= {drawn[key].stem: caption for key, caption in shown.items()}
        links = {key: f"../../../figures/{figures.name}/{drawn[key].name}" for key in shown}
        key, path = digest([name, text.encode(), links, how]), results / "pages" / f"{name}.html"
        if not path.exists() or f'content="{key}"' not in path.read_text(encoding="utf-8")[:500]:
            write_atomically(path, notebook_page(text, links, name=name, key=key))
    for path in (results / "pages").glob("*.html"):
        if path.stem not in texts:
            path.unlink()
    return found


def notebook_page(text: str, links: dict[str, str], *, name: str, key: str = "") -> str:
    """The HTML page of an executed notebook.

    links   {SHA-256 of a figure's bytes: where its file lies, seen from the page}; other pictures stay in the page
    key     what the page is made from, as 16 digits, so that it is made again only where that has changed
    """
    document = nbformat.reads(text, as_version=4)
    captions, title = _captions(text), ""
    for cell in document.cells:
        title = title or next(iter(_headings(cell)), "")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if WIDGET in data:
                data["text/plain"] = INTERACTIVE
            for kind in set(data) - set(SHOWN):
                del data[kind]
            if "text/html" in data:
                data["text/html"] = plain_table(data["text/html"])
        for output, kind, found in _pictures(cell):
            output.metadata[kind] = {"alt": captions[found].title}
            if found in links:
                output.metadata["filenames"] = {kind: links[found]}
    body, _ = _exporter().from_notebook_node(document)
    style = (Path(__file__).parent / STYLE).read_text(encoding="utf-8")
    templates = jinja2.Environment(loader=jinja2.PackageLoader("lib.reporting", "."), autoescape=True, trim_blocks=True)
    return templates.get_template(TEMPLATE).render(title=title, body=_slim(body), style=style, name=name, key=key)


@lru_cache(maxsize=256)
def _captions(text: str) -> dict[str, Caption]:
    """{SHA-256 of a picture that a notebook shows: its caption}; kept, because the next page has it again."""
    found, title, prose = {}, "", ""
    for cell in nbformat.reads(text, as_version=4).cells:
        if cell.cell_type == "markdown":
            title = next(reversed(_headings(cell)), title)
            paragraphs = [each.strip() for each in re.split(r"\n\s*\n", cell.source)]
            prose = next((each for each in reversed(paragraphs) if re.match(r"[\w*`$\[]", each)), "")
        for _, _, key in _pictures(cell):
            said = re.sub(r":$", ".", prose)  # what it leads to is the figure
            found[key] = Caption(title, html_of(said), cell.get("id", ""))
    return found


def _headings(cell: nbformat.NotebookNode) -> list[str]:
    found = re.findall(r"^#+ (.*)$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
    return [each.replace("`", "").replace("*", "") for each in found]


def _pictures(cell: nbformat.NotebookNode) -> Iterator[tuple[nbformat.NotebookNode, str, str]]:
    """The pictures among a cell's outputs: output, kind of data, SHA-256."""
    for output in cell.get("outputs", ()):
        for kind in set(PICTURES) & set(output.get("data", {})):
            content = base64.b64decode(output.data[kind])
            yield output, kind, hashlib.sha256(content).hexdigest()


def html_of(markdown: str) -> str:
    """Markdown with formulas as HTML with MathML.

    >>> html_of("the *size* of $x$")
    '<p>the <em>size</em> of <math><mrow><mi>x</mi></mrow></math></p>\\n'
    """
    return _renderer().render(markdown)


def mathml(tex: str, *, block: bool = False) -> str:
    """A formula in TeX as MathML; as code where it has a command that is not known.

    >>> mathml(r"x^2"), mathml(r"\\nonsense")
    ('<math><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></math>', '<code>\\\\nonsense</code>')
    """
    from latex2mathml.converter import convert

    known = re.sub(r"\\operatorname\{(\w+)\}", r"\\text{\1}", tex.strip()).replace(r"\arg", r"\text{arg }")
    try:
        found = convert(known, display="block" if block else "inline")
    except Exception:  # it raises a dozen unrelated types
        found = "\\"
    if "\\" in found:  # it copies a command that it does not know
        return f"<code>{escape(tex)}</code>"
    return found.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "").replace(' display="inline"', "")


@cache
def _renderer():
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath  # a second, not needed to plan

    class WithMathML(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return mathml(body, block=True)

        def inline_math(self, body: str) -> str:
            return mathml(body)

    return MarkdownWithMath(renderer=WithMathML(escape=False, exclude_anchor_links=True))


@cache
def _exporter():
    from nbconvert import HTMLExporter

    filters = {"markdown2html": html_of, "highlight_code": _plain_code}
    return HTMLExporter(template_name="basic", filters=filters, exclude_input_prompt=True, exclude_output_prompt=True)


def _plain_code(code: str, **options: object) -> str:
    """Code as it is: with its colours a page would be three times as large."""
    return f"<pre>{escape(code)}</pre>"


def _slim(body: str) -> str:
    """What nbconvert wrote, with the code folded, and without the classes that nothing here refers to."""
    code = r'(?s)<div class="input_area">\s*<pre>(.*?)</pre>'
    body = re.sub(code, r"<div><details><summary>Code</summary><pre>\1</pre></details>", body)
    return re.sub(r' class="(?!output")[^"]*"', "", body)


def plain_table(html: str) -> str:
    """A table of pandas without the names and styles of its cells, which take more room than their content; headers
    say what they head, and what was bold stays bold. What is no table is returned as it is.

    >>> plain_table('<style>#T_a_row0_col0 {font-weight: bold;}</style><table id="T_a"><thead><tr><th>n</th></tr>'
    ...     '</thead><tbody><tr><td id="T_a_row0_col0" class="data row0 col0" >3</td></tr></tbody></table>')
    '<table><thead><tr><th scope="col">n</th></tr></thead><tbody><tr><td><b>3</b></td></tr></tbody></table>'
    """
    if "<table" not in html:
        return html
    rules = re.findall(r"([^{}]+)\{([^}]*)\}", " ".join(re.findall(r"(?s)<style[^>]*>(.*?)</style>", html)))
    bold = {name for names, rule in rules if "bold" in rule for name in re.findall(r"#(T_\w+_row\d+_col\d+)", names)}
    html = re.sub(r"(?s)<style.*?</style>\s*", "", html)
    html = re.sub(r"\s*(</?(?:table|thead|tbody|tr|th|td|caption|div)\b[^>]*>)\s*", r"\1", html)
    html = re.sub(r"<(table|thead|tbody|tr|div)\b[^>]*>", r"<\1>", html)
    head, end, body = html.rpartition("</thead>")
    return _cells(head, "col", bold) + end + _cells(body, "row", bold)


def _cells(html: str, scope: str, bold: set[str]) -> str:
    def written(match: re.Match) -> str:
        tag, attributes, content = match.groups()
        spans = "".join(re.findall(r' (?:col|row)span="\d+"', attributes))
        if tag == "th":
            says = content.replace("&nbsp;", "").strip()
            return f'<th scope="{scope}"{spans}>{content}</th>' if says else f"<td{spans}></td>"
        name = re.search(r'id="(\w+)"', attributes)
        return f"<td{spans}><b>{content}</b></td>" if name and name[1] in bold else f"<td{spans}>{content}</td>"

    return re.sub(r"(?s)<(t[hd])\b([^>]*)>(.*?)</\1>", written, html)
