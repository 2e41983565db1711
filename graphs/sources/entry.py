"""The entry of a reader's code: `model()` and `inputs()`, or one class of `nn.Module` with arguments and inputs in words.

What is missing is guessed: the class that no other class uses, arguments from their names, inputs from the first layers. Every guess
can be edited in a form, whose words are part of the experiment: `class=Net&args=width=64&inputs=x=float32[2,64]`.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from graphs.building import shapes_only
from graphs.errors import FxscopeError, RequestError, SourceError
from graphs.record import ArgumentRecord, EntryRecord
from graphs.sources import guess
from graphs.sources.arguments import evaluate, in_words, made, parse_inputs, split
from graphs.sources.base import Arguments, ModelSource
from graphs.sources.user_code import Scope, called

WORDS = ("class", "args", "inputs")
SMALL = 5_000_000  # parameters: so small a model tries its inputs for real too, since shapes do not tell a wrong index
EXAMPLE = "Define model() that returns an nn.Module and inputs() that returns its arguments, or a class derived from nn.Module."


@dataclass(frozen=True)
class Entry:
    """How the model is made and called.

    Attributes:
        build: makes it.
        given: makes its inputs.
        record: the same in words, for the form; None where the code has model() and inputs() of its own and nothing was asked for.
        trouble: why the inputs that were guessed do not run.
    """

    build: Callable[[], nn.Module]
    given: Callable[[], Arguments]
    record: EntryRecord | None
    trouble: str = ""


def entry_source(scope: Scope, options: Mapping[str, str]) -> ModelSource:
    """The model that the code and the words give.

    Raises:
        SourceError: no model, no inputs, or arguments that cannot be guessed; names the line and the way out.
        RequestError: words that cannot be read.
    """
    loss = scope.names.get("loss")  # a script may have a tensor of that name
    found = entry(scope, options)
    notes = (_said(found),) if found.record and any(one.how == "guessed" for one in (*found.record.arguments, *found.record.inputs)) else ()
    function = cast("Callable[[Any], Tensor]", loss) if callable(loss) else None
    return ModelSource(scope.shown, found.build, found.given, function, scope.files, (*scope.notes, *notes))


def _said(found: Entry) -> str:
    record = found.record
    assert record is not None
    values = ", ".join(f"{one.name}={one.value}" for one in record.arguments if one.value)
    given = ", ".join(f"{one.name}={one.value}" for one in record.inputs if one.value)
    trouble = f"; it does not run with them: {found.trouble}" if found.trouble else ""
    return f"guessed, and to be changed in the form: {record.builder}({values}) called with {given or 'nothing'}{trouble}"


def entry(scope: Scope, options: Mapping[str, str]) -> Entry:
    """Finds the entry; see the module's head."""
    unknown = next((word for word in options if word not in WORDS), None)
    if unknown:
        raise RequestError(f"a model's file has no option `{unknown}`", where=unknown, help=f"It has: {', '.join(WORDS)}.")
    own_inputs = scope.names.get("inputs")
    has_inputs = callable(own_inputs)
    builder = _builder(scope, options.get("class", ""), has_inputs)
    arguments = _constructor(builder, scope, options.get("args", ""))
    build = _build(builder, scope, arguments)
    plain = builder is scope.names.get("model") and has_inputs and not options
    if has_inputs and "inputs" not in options:
        record = None if plain and not arguments else _record(builder, scope, arguments, ())
        return Entry(build, _own_inputs(scope, cast("Callable[[], Any]", own_inputs)), record)
    words, how, trouble = _inputs(build, scope, options.get("inputs", ""))
    asked = tuple(ArgumentRecord(name, in_words({name: value}).partition("=")[2], how[name]) for name, value in words.items())
    return Entry(build, lambda: {name: made(value) for name, value in words.items()}, _record(builder, scope, arguments, asked), trouble)


# ---------------------------------------------------------------- which


def _builder(scope: Scope, wished: str, has_inputs: bool) -> Callable[..., Any]:
    """model(), or the class that was asked for or is guessed."""
    own = scope.names.get("model")
    if wished:
        if wished in scope.classes:
            return scope.own[wished]
        way_out = f"It has: {', '.join(scope.classes)}." if scope.classes else EXAMPLE
        raise RequestError(f"the file has no class `{wished}` derived from nn.Module", where="class", help=way_out)
    if callable(own) and not isinstance(own, nn.Module):
        return own
    if isinstance(own, nn.Module):
        return lambda: own
    if not scope.classes:
        what = "the file has no function model()" + ("" if has_inputs else ", and no class derived from nn.Module")
        raise SourceError(what, where=scope.shown, help=EXAMPLE)
    return scope.own[_top(scope)]


def _top(scope: Scope) -> str:
    """The class that no other class of the file uses; the last where there are several."""
    used = {name for user in scope.classes for name in _names_in(scope.own[user]) if name != user}
    free = [name for name in scope.classes if name not in used]
    return (free or list(scope.classes))[-1]


def _names_in(cls: type) -> set[str]:
    """Global names that the methods of a class read, and its bases."""
    found = {base.__name__ for base in cls.__mro__[1:]}
    waiting = [value.__code__ for value in vars(cls).values() if hasattr(value, "__code__")]
    while waiting:
        code = waiting.pop()
        found |= set(code.co_names)
        waiting += [one for one in code.co_consts if hasattr(one, "co_names")]
    return found


# ---------------------------------------------------------------- made how


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        kept = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [one for one in kept if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]


def _constructor(builder: Callable[..., Any], scope: Scope, text: str) -> tuple[ArgumentRecord, ...]:
    """The builder's parameters with their words: given, guessed, by default, or missing."""
    given = split(text, "args", "Write name=value, separated by commas.")
    known = _parameters(builder)
    stray = next((name for name in given if name not in {one.name for one in known}), None)
    takes_more = any(one.kind == one.VAR_KEYWORD for one in _signature(builder))
    if stray and not takes_more:
        way_out = f"It takes: {', '.join(one.name for one in known) or 'nothing'}."
        raise RequestError(f"{_title(builder)} has no argument `{stray}`", where="args", help=way_out)
    found = [_argument(one, {name: ast.unparse(node) for name, node in given.items()}, scope) for one in known]
    more = [ArgumentRecord(name, ast.unparse(node), "given") for name, node in given.items() if name not in {one.name for one in known}]
    return (*found, *more)


def _signature(builder: Callable[..., Any]) -> Sequence[inspect.Parameter]:
    try:
        return list(inspect.signature(builder).parameters.values())
    except (TypeError, ValueError):
        return []


def _argument(parameter: inspect.Parameter, given: Mapping[str, str], scope: Scope) -> ArgumentRecord:
    if parameter.name in given:
        return ArgumentRecord(parameter.name, given[parameter.name], "given")
    if parameter.default is not parameter.empty:
        return ArgumentRecord(parameter.name, "", "default", repr(parameter.default)[:60])
    guessed = guess.argument(parameter, scope.own)
    return ArgumentRecord(parameter.name, guessed, "guessed" if guessed else "missing")


def _build(builder: Callable[..., Any], scope: Scope, arguments: Sequence[ArgumentRecord]) -> Callable[[], nn.Module]:
    missing = [one.name for one in arguments if one.how == "missing"]
    if missing:
        what = f"{_title(builder)} needs {', '.join(f'`{name}`' for name in missing)}, which cannot be guessed"
        raise SourceError(
            what, where=scope.shown, help=f"Fill it in: in the form, or as args={missing[0]}=…; or define model() that calls it."
        )
    text = ", ".join(f"{one.name}={one.value}" for one in arguments if one.value)

    def build() -> nn.Module:
        name = f"{_title(builder)}({text})"
        values = called(lambda: evaluate(text, scope.own), scope, name)
        made_ = called(lambda: builder(**values), scope, name)
        if not isinstance(made_, nn.Module):
            what = f"{name} returned {type(made_).__name__}, not an nn.Module"
            raise SourceError(what, where=scope.shown, help="Return an instance of a class derived from torch.nn.Module.")
        return made_

    return build


def _title(builder: Callable[..., Any]) -> str:
    return getattr(builder, "__name__", "model")


# ---------------------------------------------------------------- called with what


def _own_inputs(scope: Scope, function: Callable[[], Any]) -> Callable[[], Arguments]:
    def inputs() -> Arguments:
        given = called(function, scope, "inputs()")
        if isinstance(given, Tensor):
            return (given,)
        if isinstance(given, tuple | list):
            return tuple(given)
        if isinstance(given, Mapping):
            return dict(given)
        what = f"inputs() returned {type(given).__name__}"
        raise SourceError(what, where=scope.shown, help="Return a tensor, a tuple of tensors, or a dict of keyword arguments.")

    return inputs


def _inputs(build: Callable[[], nn.Module], scope: Scope, text: str) -> tuple[dict[str, Any], dict[str, str], str]:
    """Words of every input, where each comes from, and why guessed ones do not run."""
    given = parse_inputs(text)
    try:
        with shapes_only():
            model = build()
    except FxscopeError:
        model = build()  # not all models can be built on shapes alone
    needed = [one.name for one in _parameters(model.forward) if one.default is one.empty]
    stray = next((n for n in given if n not in {one.name for one in _parameters(model.forward)}), None)
    if stray and not any(one.kind == one.VAR_KEYWORD for one in _signature(model.forward)):
        way_out = f"It takes: {', '.join(one.name for one in _parameters(model.forward)) or 'nothing'}."
        raise RequestError(f"forward has no input `{stray}`", where="inputs", help=way_out)
    if all(name in given for name in needed):
        _refuse_open_ended(model, given, scope)
        return given, dict.fromkeys(given, "given"), ""
    trial = build() if sum(value.numel() for value in model.parameters()) <= SMALL else None
    words, trouble = guess.inputs(model, needed, lambda values: model(**values), given, trial)
    words = {**words, **given}
    return words, {name: "given" if name in given else "guessed" for name in words}, trouble


def _refuse_open_ended(model: nn.Module, given: Mapping[str, Any], scope: Scope) -> None:
    """Nothing says how many inputs `*xs` stands for.

    Raises:
        SourceError: forward has no other inputs.
    """
    rest = next((one.name for one in _signature(model.forward) if one.kind == one.VAR_POSITIONAL), None)
    if rest and not given:
        what = f"forward takes *{rest}, and how many that are cannot be guessed"
        raise SourceError(what, where=scope.shown, help="Define inputs() that returns a tuple of tensors.")


def _record(
    builder: Callable[..., Any], scope: Scope, arguments: tuple[ArgumentRecord, ...], inputs: tuple[ArgumentRecord, ...]
) -> EntryRecord:
    return EntryRecord(_title(builder), builder.__name__ if isinstance(builder, type) else "", tuple(scope.classes), arguments, inputs)


def form_of(scope: Scope, options: Mapping[str, str]) -> EntryRecord | None:
    """What the form shows, also where the model cannot be made as it stands: then with empty fields."""
    try:
        return entry(scope, options).record
    except RequestError:
        if not options:
            raise
        return form_of(scope, {})  # words of a code that was edited since
    except FxscopeError:
        has_inputs = callable(scope.names.get("inputs"))
        if not scope.classes and not callable(scope.names.get("model")):
            return None
        builder = _builder(scope, options.get("class", ""), has_inputs)
        inputs = tuple(
            ArgumentRecord(name, in_words({name: value}).partition("=")[2], "given")
            for name, value in parse_inputs(options.get("inputs", "")).items()
        )
        return _record(builder, scope, _constructor(builder, scope, options.get("args", "")), inputs)
