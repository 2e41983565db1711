"""Markdown of lessons as HTML for a file without scripts from elsewhere: formulas become MathML, which browsers draw themselves.

What models are called comes from anybody: HTML in the text stays text, and nothing is loaded.
"""

from __future__ import annotations

import html
import re

from markdown_it import MarkdownIt

MATH = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)|(?<![\\$])\$(?=\S)([^$\n]+?)(?<=\S)\$", re.DOTALL)
TOKEN = re.compile(r"\s+|\\[a-z]+|\d+(?:\.\d+)?|.", re.DOTALL)
WORDS = {"\\cdot": "<mo>·</mo>", "\\times": "<mo>×</mo>", "\\le": "<mo>≤</mo>", "\\ge": "<mo>≥</mo>", "\\approx": "<mo>≈</mo>", "\\,": ""}
HELD = "\ue000{}\ue001"  # letters that no text has stand for formulas while Markdown is read
HELD_AGAIN = re.compile("\ue000(\\d+)\ue001")

_reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def rendered(markdown: str) -> str:
    """Markdown -> HTML."""
    formulas: list[str] = []

    def hold(found: re.Match[str]) -> str:
        if found[2] is None:
            return found[0]
        formulas.append(mathml(found[2]))
        return HELD.format(len(formulas) - 1)

    text = MATH.sub(hold, markdown.replace("\ue000", "").replace("\ue001", ""))
    return HELD_AGAIN.sub(lambda found: formulas[int(found[1])], _reader.render(text))


def inline(markdown: str) -> str:
    """One line, without a paragraph around it."""
    return rendered(markdown).strip().removeprefix("<p>").removesuffix("</p>")


def mathml(tex: str) -> str:
    """The small part of TeX that lessons use: letters, numbers, signs, groups, sub- and superscripts, roots."""
    tokens = [token for token in TOKEN.findall(tex.replace("\\,", " ")) if not token.isspace()]
    return f'<math title="{html.escape(tex)}">{_row(tokens)}</math>'


def _row(tokens: list[str], end: str = "") -> str:
    """Everything up to a closing brace, which is taken too."""
    parts: list[str] = []
    while tokens:
        if tokens[0] == end:
            tokens.pop(0)
            break
        if tokens[0] in ("^", "_") and parts:
            kinds, base = {"_": "", "^": ""}, parts.pop()
            while tokens and tokens[0] in kinds:
                kind = tokens.pop(0)
                kinds[kind] = _one(tokens)
            parts.append(_scripted(base, kinds["_"], kinds["^"]))
        else:
            parts.append(_one(tokens))
    return f"<mrow>{''.join(parts)}</mrow>"


def _scripted(base: str, below: str, above: str) -> str:
    if below and above:
        return f"<msubsup>{base}{below}{above}</msubsup>"
    return f"<msub>{base}{below}</msub>" if below else f"<msup>{base}{above}</msup>"


def _one(tokens: list[str]) -> str:
    """A letter, a number, a sign, or a group."""
    token = tokens.pop(0) if tokens else ""
    if token == "{":
        return _row(tokens, "}")
    if token == "\\sqrt":
        return f"<msqrt>{_one(tokens)}</msqrt>"
    if token in WORDS:
        return WORDS[token]
    if token[:1].isdigit():
        return f"<mn>{token}</mn>"
    if token.isalpha():
        return f"<mi>{token}</mi>"
    return f"<mo>{html.escape({'-': '−'}.get(token, token))}</mo>"
