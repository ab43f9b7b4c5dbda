"""What executed notebooks show, in less room."""

import re


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
