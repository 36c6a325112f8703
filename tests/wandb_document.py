"""What a report document says."""

from collections.abc import Mapping
from typing import Any


def document_text(document: Mapping[str, Any]) -> str:
    """All of its headings and prose as Markdown."""
    return "\n\n".join(filter(None, map(_text, document["blocks"])))


def _text(block: Mapping[str, Any]) -> str:
    if "heading" in block:
        return f"{'#' * block['level']} " + block["heading"].replace("<", "&lt;")
    return block.get("markdown", "")
