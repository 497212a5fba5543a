"""The file that a student begins with, made from the source of the real module, so that it never goes stale.

`python -m ppad.grade --starter COMPONENT` writes it; the README's page for instructors says how it is used.
"""

import ast


def starter(source: str) -> str:
    """A module's source with every body replaced by `raise NotImplementedError`, and private helpers left out.

    Docstrings, imports, constants, signatures and the fields of dataclasses stay, word for word, comments included.
    Expects the indentation of this package, four spaces.
    """
    rows, tree = source.splitlines(keepends=True), ast.parse(source)
    edits = []  # (first row, last row, text in their place)

    def visit(nodes):
        for node in nodes:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                continue
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
            if node.name.startswith("_") and not node.name.endswith("__"):
                while (
                    first
                    and rows[first - 1].lstrip().startswith("#")
                    and "# --" not in rows[first - 1]
                ):
                    first -= 1  # its comment goes with it, a heading stays
                while first and not rows[first - 1].strip():
                    first -= 1
                edits.append((first, node.end_lineno, ""))
            elif isinstance(node, ast.ClassDef):
                visit(node.body)
            else:
                body, indent = node.body[0], " " * (node.col_offset + 4)
                if ast.get_docstring(node) is not None:
                    start, kept = body.end_lineno, ""
                else:  # the first statement may share the signature's row
                    start = body.lineno - 1
                    kept = rows[start].encode()[: body.col_offset].decode().rstrip()
                    kept += "\n" if kept else ""
                # A default like `config=Config()` runs at import, and so does its __post_init__: that may not raise.
                todo = (
                    "pass  # write me"
                    if node.name == "__post_init__"
                    else 'raise NotImplementedError("write me")'
                )
                edits.append((start, node.end_lineno, f"{kept}{indent}{todo}\n"))

    visit(tree.body)
    for first, last, text in sorted(edits, reverse=True):
        rows[first:last] = [text]
    return "".join(rows)
