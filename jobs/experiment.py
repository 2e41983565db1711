"""Experiment: what the reader asked for, in plain words.

The words are the URL's query, the command line's argument and, hashed, the key of results.

    model=zoo/gpt2&mode=training&batch=1&seq=64&pipeline=fuse-attention,recompute-activations(every=2)&device=cpu

Words are parsed here and checked against what exists (models, options, optimizations) by the worker.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import parse_qsl, quote

import msgspec

from graphs.errors import RequestError

MODES = ("inference", "training", "prefill", "decode")
DEVICES = ("auto", "cpu", "cuda")
RESERVED = ("model", "mode", "pipeline", "device")
STEP = re.compile(r"([a-z][a-z0-9-]*)(?:\(([^()]*)\))?")


class StepWords(msgspec.Struct, frozen=True):
    """One step of the pipeline: the optimization's name and its settings, as text. `only` names a single site."""

    name: str
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> str:
        inner = ",".join(f"{key}={value}" for key, value in self.settings)
        return f"{self.name}({inner})" if inner else self.name

    def setting(self, key: str) -> str:
        """The setting's text, empty when it is not given."""
        return dict(self.settings).get(key, "")

    def with_setting(self, key: str, value: str) -> StepWords:
        """The same step with one setting replaced; an empty value removes it."""
        kept = {name: text for name, text in self.settings if name != key}
        if value:
            kept[key] = value
        return StepWords(self.name, tuple(sorted(kept.items())))


CAPTURED = "captured"


class Experiment(msgspec.Struct, frozen=True):
    """Model, its options, mode, pipeline and device.

    Attributes:
        model: `zoo/NAME`, `hf/NAME`, `file:PATH` (command line only) or `source/SHA256` (a source kept in the store).
        options: the model's own settings in alphabetical order, as text: batch, seq, image, dtype, depth …
        device: auto takes CUDA where it is present and the CPU elsewhere.
    """

    model: str
    mode: str = "inference"
    options: tuple[tuple[str, str], ...] = ()
    pipeline: tuple[StepWords, ...] = ()
    device: str = "auto"

    @property
    def words(self) -> str:
        """The canonical sentence: parse(words) gives an equal experiment."""
        pairs = [("model", self.model), ("mode", self.mode), *self.options]
        if self.pipeline:
            pairs.append(("pipeline", ",".join(step.words for step in self.pipeline)))
        if self.device != "auto":
            pairs.append(("device", self.device))
        return "&".join(f"{key}={quote(value, safe='/:(),=._-')}" for key, value in pairs)

    @property
    def hash(self) -> str:
        """sha256 of the canonical sentence."""
        return hashlib.sha256(self.words.encode()).hexdigest()

    @property
    def graph_labels(self) -> tuple[str, ...]:
        """What the captured graph and the graph after each step are called; a step that comes again is numbered."""
        words = [step.words for step in self.pipeline]
        again = [words[: at + 1].count(one) for at, one in enumerate(words)]
        return (CAPTURED, *(one if count == 1 else f"{one} ({count})" for one, count in zip(words, again, strict=True)))

    def prefix(self, steps: int) -> Experiment:
        """The same experiment with the first `steps` steps only."""
        return msgspec.structs.replace(self, pipeline=self.pipeline[:steps])


def parse(words: str) -> Experiment:
    """Words -> Experiment.

    Raises:
        RequestError: a word is repeated, empty, or none of an experiment's.
    """
    pairs = parse_qsl(words.strip().lstrip("?"), keep_blank_values=True)
    if words.strip() and not pairs:
        raise RequestError(f"`{words}` is not of the form word=value", help="Write model=zoo/mlp&mode=inference.")
    return from_pairs(pairs)


def from_pairs(pairs: list[tuple[str, str]]) -> Experiment:
    """The same from (word, value) pairs, such as a URL's query."""
    given: dict[str, str] = {}
    for key, value in pairs:
        if key in given:
            raise RequestError(f"`{key}` is given twice", where=key, help="Keep one of them.")
        if not value and key != "pipeline":
            raise RequestError(f"`{key}` has no value", where=key, help=f"Write {key}=…, or leave the word out.")
        given[key] = value
    if "model" not in given:
        raise RequestError("no model is named", where="model", help="Write model=zoo/mlp or another of the zoo.")
    mode, device = given.get("mode", "inference"), given.get("device", "auto")
    _one_of("mode", mode, MODES)
    _one_of("device", device, DEVICES)
    options = tuple(sorted((key, value) for key, value in given.items() if key not in RESERVED))
    return Experiment(given["model"], mode, options, parse_pipeline(given.get("pipeline", "")), device)


def parse_pipeline(text: str) -> tuple[StepWords, ...]:
    """`a,b(every=2,only=mm_3)` -> steps.

    Raises:
        RequestError: the text is not a list of steps.
    """
    steps: list[StepWords] = []
    rest = text.strip()
    while rest:
        found = STEP.match(rest)
        end = found.end() if found else 0
        if not found or (end < len(rest) and rest[end] != ","):
            raise RequestError(f"`{rest}` is not a step", where="pipeline", help="Write name or name(key=value), separated by commas.")
        steps.append(StepWords(found[1], _settings(found[1], found[2] or "")))
        rest = rest[end + 1 :].strip()
    return tuple(steps)


def _settings(step: str, text: str) -> tuple[tuple[str, str], ...]:
    settings: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value) or key in settings:
            raise RequestError(f"`{part}` is not a setting of {step}", where="pipeline", help="Write key=value, each once.")
        settings[key] = value
    return tuple(sorted(settings.items()))


def _one_of(word: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RequestError(f"{word}={value} is unknown", where=word, help=f"Choose one of: {', '.join(choices)}.")
