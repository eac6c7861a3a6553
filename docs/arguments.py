"""For mkdocstrings: the lines ``name: meaning`` of a docstring become a list, which Markdown would run together."""

import re
from typing import Any

import griffe

LINE = re.compile(r"^(\w+): (?=\S)", re.MULTILINE)


class Arguments(griffe.Extension):
    """Marks the argument lines of each docstring of a class or function as items of a list."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring and (obj.is_class or obj.is_function):
            obj.docstring.value = as_list(obj.docstring.value)


def as_list(text: str) -> str:
    """Paragraphs that consist of ``name: meaning`` lines, as Markdown lists."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(LINE.sub(r"- `\1`: ", part) if LINE.match(part) else part for part in paragraphs)
