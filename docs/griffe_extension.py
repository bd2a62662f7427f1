"""What makes the reference readable: plain types, and links where docstrings have roles."""

import re
from pathlib import Path
from typing import Any

import griffe

_REFERENCE = Path(__file__).with_name("reference.md")
_ROLE = re.compile(r":(?:func|class|meth|attr|data|mod|exc):`~?([\w.]+)`")


class Readable(griffe.Extension):
    """Types without `Annotated`; roles of docstrings as links to the reference, or as code."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite all objects of a package."""
        shown = re.findall(r"^::: (\S+)$", _REFERENCE.read_text("utf-8"), re.MULTILINE)
        self._places = {path.rpartition(".")[2]: path for path in shown}
        self._rewrite(pkg)

    def _rewrite(self, found: griffe.Object | griffe.Alias) -> None:
        if found.docstring is not None:
            found.docstring.value = _ROLE.sub(self._link, found.docstring.value)
        if isinstance(found, griffe.Attribute):
            found.annotation = _plain(found.annotation)
        elif isinstance(found, griffe.Function):
            found.returns = _plain(found.returns)
            for parameter in found.parameters:
                parameter.annotation = _plain(parameter.annotation)
        for member in found.members.values():
            if not member.is_alias:
                self._rewrite(member)

    def _link(self, match: re.Match[str]) -> str:
        name = match[1].rpartition(".")[2]
        return f"[`{name}`][{self._places[name]}]" if name in self._places else f"`{name}`"


def _plain(annotation: Any) -> Any:
    """Return a type without `Annotated`; an alias of such a type as what it stands for."""
    if isinstance(annotation, griffe.ExprSubscript) and annotation.canonical_name == "Annotated":
        inside = annotation.slice
        return inside.elements[0] if isinstance(inside, griffe.ExprTuple) else inside
    if isinstance(annotation, griffe.ExprName) and isinstance(annotation.parent, griffe.Object):
        defined = annotation.parent.module.members.get(annotation.name)
        if isinstance(defined, griffe.Attribute):
            plain = _plain(defined.value)
            return annotation if plain is defined.value else plain
    return annotation
