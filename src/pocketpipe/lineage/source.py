"""What one Python source file says: its code without comments and docstrings, what it imports, what it names."""

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pocketpipe.errors import UserError
from pocketpipe.lineage.assets import NAME

_MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(:\w+)?")
_LONGEST_NAME = 128
"""Letters. What is longer is a text of its own, not a file's name."""


@dataclass(frozen=True)
class ParsedSource:
    """A source file, read. `imports` and `mentions` may name things that are no modules: the reader finds out."""

    digest: str
    """SHA-256 of the syntax tree without docstrings."""
    imports: tuple[str, ...]
    """Absolute names, also from imports inside functions; not those for type checkers alone."""
    mentions: tuple[str, ...]
    """Texts in the code that look like a module's name: what is started as `python -m NAME`, say."""
    names: tuple[str, ...]
    """Texts in the code that may name a file or a folder: a template, a C source."""


def read_source(path: Path, module: str) -> ParsedSource:
    """Read the file of `module`; remembered until the file changes. Raises UserError if it is not Python."""
    status = path.stat()
    return _read(path, module, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _read(path: Path, module: str, mtime_ns: int, size: int) -> ParsedSource:
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise UserError(f"{path}{f':{line}' if line else ''}: cannot be read as Python: {error}") from error
    _drop_docstrings(tree)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return ParsedSource(
        digest=hashlib.sha256(ast.dump(tree).encode()).hexdigest(),
        imports=tuple(sorted(set(_imports(tree.body, package)))),
        mentions=tuple(sorted(text.partition(":")[0] for text in texts if _MODULE_NAME.fullmatch(text))),
        names=tuple(sorted(text for text in texts if len(text) < _LONGEST_NAME and NAME.fullmatch(text))),
    )


def _drop_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        # Also a text after an attribute is documentation: no bare text does anything.
        node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(body: list[ast.stmt], package: str) -> Iterator[str]:
    for node in body:
        # A module's `__getattr__` offers names lazily: who wants one imports it, the others do not depend on it.
        if not (isinstance(node, ast.FunctionDef) and node.name == "__getattr__"):
            yield from _imports_within(node, package)


def _imports_within(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        origin = _origin(node, package)
        yield origin
        yield from (f"{origin}.{alias.name}" for alias in node.names if alias.name != "*")
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test).split("."):
        for line in node.orelse:
            yield from _imports_within(line, package)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _imports_within(child, package)


def _origin(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parents = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parents, *filter(None, [node.module])])
