"""The part of a notebook that asks for units: a backward slice (Weiser, 1984) of its statements."""

import ast
from collections.abc import Mapping

DOORS = ("evaluate", "finished")  # of lib.store.units, through which notebooks ask for units


def run_cells(cells: list[str], values: Mapping[str, object], doors: tuple[str, ...] = DOORS) -> list[str]:
    """Run what a notebook does up to what it asks for by `doors`, with these values of its parameters; what failed.

    A statement that fails, for want of rows as a rule, is passed over, and the next one is run; the names that it would
    have given a value have none.

    >>> run_cells(["evaluate, y = print, 0", "x = y[0]", "for z in x: evaluate(z)", "1 / 0", "evaluate(y)"], {})
    0
    ["x = y[0]: TypeError: 'int' object is not subscriptable", "for z in x:: NameError: name 'x' is not defined"]
    """
    space, failed = {"__name__": "__main__"}, []
    for statement in needed(cells, doors):
        try:
            exec(compile(ast.Module([statement], []), "<cell>", "exec"), space)
        except Exception as error:
            failed.append(f"{ast.unparse(statement).splitlines()[0][:60]}: {type(error).__name__}: {error}")
            for name in _bound(statement) if isinstance(statement, ast.Assign | ast.AugAssign) else ():
                space.pop(name, None)
        if isinstance(statement, ast.AnnAssign) and statement.target.id in values:  # as the parameters cell has them
            space[statement.target.id] = values[statement.target.id]
    return failed


def needed(cells: list[str], doors: tuple[str, ...] = DOORS) -> list[ast.stmt]:
    """The statements that ask for units, by one of `doors` or by a function of the notebook that does, and those that
    give these what they use, in their order. A door may be dotted: "tables.save_csv".

    >>> cells = ["a = 1", "b = 2", "def f(): return evaluate(a)", "print(b)", "rows = f()"]
    >>> [ast.unparse(statement).split("\\n")[0] for statement in needed(cells)]
    ['a = 1', 'def f():', 'rows = f()']
    """
    statements = [statement for cell in cells for statement in ast.parse(cell).body]
    asking, wanted, kept = set(doors), set(), []
    for statement in statements:
        if isinstance(statement, ast.FunctionDef) and _read(statement) & asking:
            asking.add(statement.name)
        elif isinstance(statement, ast.Assign) and _handed_on(statement) & asking:
            asking |= _bound(statement)
    for statement in reversed(statements):
        bound = _bound(statement)
        asks = (_read(statement) | _dotted(statement)) & asking
        if bound & wanted or (asks and not isinstance(statement, ast.FunctionDef)):
            kept.append(statement)
            plain = isinstance(statement, ast.Assign | ast.AnnAssign)
            wanted = wanted - (bound if plain else set()) | _read(statement)
    return kept[::-1]


def _handed_on(tree: ast.AST) -> set[str]:
    """The names that are read but not called, as f in partial(f)."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}


def _read(tree: ast.AST) -> set[str]:
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return names - _bound(tree) if isinstance(tree, ast.Assign | ast.AnnAssign) and not _own(tree) else names


def _dotted(tree: ast.AST) -> set[str]:
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def _own(tree: ast.AST) -> bool:
    """Whether an assignment reads a name that it gives a value."""
    loaded = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return bool(loaded & _bound(tree))


def _bound(tree: ast.AST) -> set[str]:
    """The names that a statement gives a value, changes in place, imports or calls a method of."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(name.asname or name.name).partition(".")[0] for name in node.names}
        elif isinstance(node, ast.Name | ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Call) and isinstance(tree.value.func, ast.Attribute):
        found |= {inner.id for inner in ast.walk(tree.value.func) if isinstance(inner, ast.Name)}
    return found
