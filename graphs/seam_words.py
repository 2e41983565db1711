"""Why TorchDynamo cuts a model, in words: torch's kinds of graph breaks -> one sentence, and what to do about it. Without torch."""

from __future__ import annotations

import re
from typing import NamedTuple

NOTHING = re.compile(r"\s*(?:\(reason: None\)|Message: None|\(has_kwargs False\))")
SHORT = 260  # characters of torch's own explanation
ADDRESS = re.compile(r"<(?:function|bound method|built-in function|built-in method) ([\w.<>]+)[^>]*>")
NO_HELP = ("please report", "please file", "it may be possible", "this graph break may", "this graph break is", "your code may result")


class Words(NamedTuple):
    """A reason without full stop, what to do about it, and torch's own explanation."""

    reason: str
    way_out: str
    torch_says: str


class Rule(NamedTuple):
    """What torch calls the break, what its explanation contains (groups go into the texts), and the texts."""

    kind: str
    says: str
    reason: str
    way_out: str


OUT_OF_FORWARD = "Take it out of forward, or do it after the model has run."
IN_C = "Compute it with torch, or wrap it as a custom operator with torch.library.custom_op."
IN_TORCH = "Compute it with torch."
NUMPY = "`{0}` is a call into numpy for which torch has no stand-in"
RULES = (
    Rule("Failed to trace builtin operator", r"operator `(print)`", "`{0}` is called: Dynamo cannot put it into a graph", OUT_OF_FORWARD),
    Rule(
        "Failed to trace builtin operator", r"operator `(open|input|breakpoint|exec|eval|compile)`",
        "`{0}` reaches outside the model: Dynamo cannot put it into a graph", OUT_OF_FORWARD,
    ),
    Rule("Failed to trace builtin operator", r"operator `([\w.]+)`", "the builtin `{0}` is called on something that Dynamo cannot follow", ""),
    Rule(
        "Data-dependent branching", "", "the branch depends on a tensor's value",
        "Use torch.where to choose between values or torch.cond between branches, or decide outside forward.",
    ),
    Rule("Data-dependent assertion", "", "the assertion depends on a tensor's value", "Use torch._assert_async, or check outside forward."),
    Rule(
        "Unsupported Tensor.item", "", "`.item()` reads a number out of a tensor",
        "Keep it a tensor; or set torch._dynamo.config.capture_scalar_outputs = True.",
    ),
    Rule("Tensor.tolist", "", "`.tolist()` reads numbers out of a tensor", "Keep them in a tensor."),
    Rule("Unsupported Tensor.tolist", "", "`.tolist()` reads numbers out of a tensor", "Keep them in a tensor."),
    Rule(
        "Dynamic shape operator", r"Operator `(?:aten\.)?(\w+)[\w.]*`", "the shape that `{0}` gives depends on the tensor's values",
        "Use a mask or torch.where, which keep the shape; or set torch._dynamo.config.capture_dynamic_output_shape_ops = True.",
    ),
    Rule("Data dependent operator", r"Operator `(?:aten\.)?(\w+)[\w.]*`", "`{0}` reads a number out of a tensor", "Keep it a tensor."),
    Rule("Call to `torch._dynamo.graph_break()`", "", "`torch._dynamo.graph_break()` asks for a break", "Remove the call."),
    Rule("Call to `torch._dynamo.skip_frame()`", "", "`torch._dynamo.skip_frame()` asks to leave the function alone", "Remove the call."),
    Rule(
        "Skip ", r"function `<?(?:function |bound method )?([\w.<>]+?)(?: (?:at|of) [^`]*)?>?` since it was wrapped",
        "`{0}` is marked to be left out of graphs by `torch.compiler.disable`", "Remove the mark, if the function can be followed.",
    ),
    Rule("Attempted to call function marked as skipped", r"builtin `(numpy[\w.]*\w)", NUMPY, IN_TORCH),
    Rule("attempted to trace numpy", r"function (\w+) in torch\._numpy", NUMPY.replace("{0}", "numpy.{0}"), IN_TORCH),
    Rule("attempted to trace numpy", "", "a call into numpy for which torch has no stand-in", IN_TORCH),
    Rule(
        "Attempted to call function marked as skipped", r"builtin `(?:<unknown module>\.)?((?:time|datetime|secrets|uuid|Random)\.[\w.]*\w)",
        "`{0}` gives another value at every call: Dynamo cannot put it into a graph", OUT_OF_FORWARD,
    ),
    Rule(
        "Attempted to call function marked as skipped", r"builtin `_(warnings\.warn)", "`{0}` is called: Dynamo cannot put it into a graph",
        OUT_OF_FORWARD,
    ),
    Rule(
        "Attempted to call function marked as skipped", r"builtin `(?:<unknown module>\.)?([\w.]*\w)",
        "`{0}` is written in C: Dynamo cannot look into it", IN_C,
    ),
    Rule(
        "Attempted to call function marked as skipped", r"function `([\w.<>]+)`", "`{0}` is a function that Dynamo does not follow", OUT_OF_FORWARD
    ),
    Rule(
        "Attempted to inline function marked as skipped", r"function `([\w.<>]+)`", "`{0}` is a function that Dynamo does not follow",
        OUT_OF_FORWARD,
    ),
    Rule(
        "Attempted to wrap RNN, GRU, or LSTM", "", "Dynamo does not follow torch's recurrent layers (RNN, GRU, LSTM)",
        "Set torch._dynamo.config.allow_rnn = True, or write the recurrence in torch.",
    ),
    Rule("logging.Logger method", "", "a logger is called: Dynamo cannot put it into a graph", OUT_OF_FORWARD),
    Rule("Unsupported method call", r"method `(\w+)` of class `([\w.]+)`", "the method `{0}` of `{1}` is called: Dynamo cannot follow it", ""),
    Rule("Attempted to copy.deepcopy", "", "`copy.deepcopy` copies a tensor: Dynamo cannot follow it", "Use tensor.clone()."),
    Rule("using `torch.autograd.grad`", "", "`torch.autograd.grad` is called inside the model", "Use torch.func.grad."),
    Rule("Unsupported Tensor.backward", "", "`.backward()` is called inside the model", "Call it after the model."),
    Rule("Dynamic slicing with Tensor", "", "a tensor's value says how much to slice", "Slice by a Python number, or use a mask."),
    Rule("Dynamo recompile limit", "", "this function was compiled too often, for ever other values: Dynamo gives up", "Make what differs a tensor."),
    Rule(
        "Graph break under GenericContextWrapping", "", "the break lies inside a `with` block that Dynamo cannot leave and enter again",
        "End the block before it.",
    ),
    Rule("Attempt to trace generator", "", "a generator (`yield`) is run: Dynamo cannot stop in the middle of it", "Build a list instead."),
    Rule("Observed exception", "", "an exception is raised", ""),
    Rule("Operator does not support running with fake", "", "an operator has no rule for shapes without numbers", "Register a fake kernel."),
)  # fmt: skip


def words_of(message: str, line: str) -> Words:
    """torch's message about a break, and the line of code it is about -> plain words.

    A kind without a rule is told as torch tells it."""
    kind, _, rest = message.strip().partition("\n")
    says = _explanation(rest)
    for rule in RULES:
        found = re.search(rule.says, says) if kind.startswith(rule.kind) else None
        if found:
            reason = _fitted(rule.reason.format(*found.groups()), line)
            return Words(reason, rule.way_out or _hint(rest), says)
    return Words(_short(kind), _hint(rest), says)


def _fitted(reason: str, line: str) -> str:
    """The word that stands on the reader's line."""
    if "the branch" in reason and line.startswith("while"):
        return reason.replace("the branch", "the end of the loop")
    if "the branch" in reason and line.startswith("assert"):
        return reason.replace("the branch", "the assertion")
    if reason.startswith("`.item()`") and ".item(" not in line:
        return reason.replace("`.item()` reads a number", "a number is read")
    return reason


def _explanation(rest: str) -> str:
    """The first paragraph of what torch explains, without addresses of memory."""
    text = rest.partition("Explanation:")[2] or rest
    text = re.split(r"\n\s*\n|\n\s*Hint:|\n\s*Developer debug context:", text)[0]
    return _short(NOTHING.sub("", text))


def _hint(rest: str) -> str:
    hints = [_short(text) for text in re.findall(r"Hint: (.*?)(?=\n\s*(?:Hint:|\n|Developer)|\Z)", rest, re.DOTALL)]
    return next((hint for hint in hints if not hint.lower().startswith(NO_HELP)), "")


def _short(text: str) -> str:
    text = ADDRESS.sub(r"\1", " ".join(text.split()))
    return text if len(text) <= SHORT else f"{text[:SHORT].rsplit(' ', 1)[0]} …"
