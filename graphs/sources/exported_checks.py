"""What a program's JSON may say, before torch's reader sees it: names that are names, operators of torch, sizes that are numbers.

torch's reader looks operators up by path from `torch` itself, hands expressions of sizes to sympy, which evaluates them as Python, and
writes names into code that it compiles. So each of these is checked or replaced first.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import torch

from graphs.errors import SourceError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")
OPERATOR = re.compile(r"torch\.ops\.(aten|prims|torchvision|quantized_decomposed|torchao|higher_order)\.(\w+)(?:\.(\w+))?")
ARITHMETIC = frozenset(
    [
        "getitem",
        "add",
        "and_",
        "eq",
        "floordiv",
        "ge",
        "gt",
        "le",
        "lshift",
        "lt",
        "mod",
        "mul",
        "ne",
        "neg",
        "not_",
        "or_",
        "pos",
        "pow",
        "rshift",
        "sub",
        "truediv",
    ]
)
NUMBERS = frozenset(
    [
        "torch._sym_sqrt",
        "torch.sym_float",
        "torch.sym_int",
        "torch.sym_ite",
        "torch.sym_max",
        "torch.sym_min",
        "torch.sym_not",
        "torch.sym_sum",
    ]
)
ROUNDING = frozenset(["math.ceil", "math.floor", "math.sqrt", "math.trunc"])
HIGHER = frozenset(
    [
        "associative_scan",
        "auto_functionalized",
        "auto_functionalized_v2",
        "cond",
        "flex_attention",
        "invoke_subgraph",
        "map_impl",
        "scan",
        "strict_mode",
        "tag_activation_checkpoint",
        "while_loop",
        "wrap",
        "wrap_activation_checkpoint",
        "wrap_with_autocast",
        "wrap_with_set_grad_enabled",
    ]
)
KEPT_METADATA = ("stack_trace", "nn_module_stack")
EXPRESSIONS = {"sym_float_values": "as_float", "sym_bool_values": "as_bool"}
PLAIN = {"as_int": 2, "as_float": 1.0, "as_bool": True}  # where the file does not say which size it had
NAMES = ("name", "as_name")
OPERATORS = ("target", "as_operator")
BRING = "Export the model with operators of torch only, or bring its Python file."


def check_program(found: Any, file: str) -> None:
    """Every name and every operator, wherever it stands in the JSON.

    Raises:
        SourceError: one that could be more than a name, or more than an operator.
    """
    queue = [found["graph_module"]["graph"], found["graph_module"]["signature"]]
    while queue:
        one = queue.pop()
        if isinstance(one, list):
            queue.extend(one)
        elif isinstance(one, dict):
            if "as_custom_obj" in one or "custom_obj" in one:
                raise SourceError("the program uses an object that is no tensor", where=file, help=BRING)
            for key, value in one.items():
                if key in NAMES and value is not None:
                    _check_name(value, file)
                elif key in OPERATORS:
                    _check_operator(value, file)
                elif key != "metadata":
                    queue.append(value)


def _check_name(value: Any, file: str) -> None:
    if value != "" and not (isinstance(value, str) and NAME.fullmatch(value)):
        raise SourceError(f"the program has a name that is none: {str(value)[:80]!r}", where=file, help="Save it with torch.export.save.")


def _check_operator(value: Any, file: str) -> None:
    if not isinstance(value, str):
        _refuse(str(value), file)
    if value in NUMBERS or value in ROUNDING:
        return
    prefix, _, last = value.rpartition(".")
    if prefix == "_operator" and last in ARITHMETIC:
        return
    found = OPERATOR.fullmatch(value)
    if not found:
        _refuse(value, file)
    namespace, name, overload = found.groups()
    if namespace == "higher_order":
        if name not in HIGHER or overload:
            _refuse(value, file)
    elif not _is_safe(getattr(getattr(getattr(torch.ops, namespace), name, None), overload or "default", None)):
        _refuse(value, file)


def _is_safe(found: Any) -> bool:
    """An operator that computes: some of torch's own read or write a file by name."""
    return isinstance(found, torch._ops.OpOverload) and all(argument.name != "filename" for argument in found._schema.arguments)


def _refuse(value: str, file: str) -> NoReturn:
    raise SourceError(f"the program uses an operator that is not known here: {value[:120]}", where=file, help=BRING)


def plain_numbers(value: Any, kind: str = "as_int") -> Any:
    """The JSON with each expression replaced by the number that it had at export, devices by the CPU, and metadata by what is used."""
    if isinstance(value, list):
        return [plain_numbers(one, kind) for one in value]
    if not isinstance(value, dict):
        return value
    if "as_expr" in value:
        return {kind: _hint(value["as_expr"], kind)}
    if value.keys() == {"type", "index"}:
        return {"type": "cpu", "index": None}
    made = {key: plain_numbers(one, EXPRESSIONS.get(key, kind)) for key, one in value.items() if key != "metadata"}
    if isinstance(value.get("metadata"), dict):
        kept = {key: value["metadata"].get(key) for key in KEPT_METADATA}
        made["metadata"] = {key: text for key, text in kept.items() if isinstance(text, str)}
    return made


def _hint(expression: Any, kind: str) -> int | float | bool:
    """Sizes below 0 and above what memory holds are no sizes."""
    hint: Any = (expression.get("hint") or {}).get(kind) if isinstance(expression, dict) else None
    wanted = type(PLAIN[kind])
    return hint if isinstance(hint, wanted) and (wanted is not int or 0 <= hint < 1 << 40) else PLAIN[kind]
