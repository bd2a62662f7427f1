"""Pages and cards from jinja2 templates. HTML is escaped; Markdown has filters of its own."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from cassle_zoo.common import markdown


def render(package: str, template: str, **values: Any) -> str:
    """Fill in a template.

    Args:
        package: The package whose folder `templates` holds it, for example `cassle_zoo.eval.report`.
        template: Its name: `*.html` is escaped, `*.md` is not. In Markdown `{{ value | inline }}`
            keeps a value of any origin on its line, and `{{ command | shell_block }}` in its block.
        **values: What it names. A name that is not given is an error.

    Returns:
        The text, with one line's end last.
    """
    return _environment(package).get_template(template).render(**values).rstrip("\n") + "\n"


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["inline"] = markdown.inline
    environment.filters["shell_block"] = markdown.shell_block
    environment.globals["table"] = markdown.table
    return environment
