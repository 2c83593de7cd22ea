"""Text from anywhere as GitHub Markdown: nothing foreign is markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of cells under a header."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(escape, line))} |" for line in lines)


def bullets(sentences: Sequence[str]) -> list[str]:
    """One block of points; none of nothing."""
    return ["\n".join(f"- {escape(sentence)}" for sentence in sentences)] if sentences else []


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no raw HTML, no automatic links."""
    if text == "---":
        return text
    text = re.sub(r"([\\`*_\[\]<>|~&#])", r"\\\1", text)
    return text.replace("://", "\\://").replace("www.", "www\\.")
