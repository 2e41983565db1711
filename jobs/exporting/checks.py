"""What an exported file does with its programs: checks and timing. The text of this module is written into every such file.

So it may need nothing but torch, the standard library, and functions that `written_out` can take along.
"""

from __future__ import annotations

import argparse
import base64
import math
import statistics
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from optimizers.verify import (  # pyright: ignore[reportPrivateUsage]
    APPROXIMATE,
    BEHIND,
    CANCELLED,
    FACTOR,
    FLOOR,
    _blind,
    _error,
    _forgiven,
    _largest,
    _narrows,
    _same_bits,
    _wide,
)

ROUNDS = 15  # each program so often, in turns
Given = dict[str, Tensor]
Run = Callable[[Given], list[Tensor]]


class DEVICE:
    """Where the programs run, and whether generated kernels may."""

    now = torch.device("cpu")
    plain = False


CONSTANTS: Given = {}  # for bodies inside of a program


def exactly(shape: tuple[int, ...], dtype: torch.dtype, packed: str) -> Tensor:
    """A tensor from its bytes, compressed and in base64."""
    raw = bytearray(zlib.decompress(base64.b64decode(packed)))
    return torch.frombuffer(raw, dtype=dtype).reshape(shape)


def laid_out(value: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The same elements at other places in memory."""
    if 0 in strides:
        once = tuple(slice(0, 1) if step == 0 else slice(None) for step in strides)
        return value[once].expand(value.shape)
    made = torch.empty_strided(value.shape, strides, dtype=value.dtype)
    return made.copy_(value)


class Kernel:
    """A part of a program that runs as code which torch's Inductor generated for it.

    The code is for one version of torch, one kind of processor, one layout of the operands. Elsewhere, and with --plain, `body` runs: the
    same computation operator by operator, whose last bits may differ.
    """

    def __init__(self, body: Callable[..., Any], device: str, layouts: list[Any], single: bool, code: str) -> None:
        self.body, self.device, self.layouts, self.single, self.code = body, device, layouts, single, code
        self.call: Callable[[list[Tensor]], Sequence[Tensor]] | None = None

    def __call__(self, *args: Tensor) -> Any:
        if DEVICE.plain or DEVICE.now.type != self.device or [(tuple(x.shape), x.stride()) for x in args] != self.layouts:
            return self.body(*args)
        if self.call is None:
            module: dict[str, Any] = {"__name__": f"kernel_{id(self)}"}
            exec(compile(self.code, module["__name__"], "exec"), module)
            self.call = module["call"]
        assert self.call is not None
        found = self.call(list(args))
        return found[0] if self.single else tuple(found)


class Prepared:
    """Work on weights alone: done once, and kept as long as the weights are the same tensors, unchanged."""

    def __init__(self, body: Callable[..., Any]) -> None:
        self.body, self.seen, self.kept = body, [], None

    def __call__(self, *args: Tensor) -> Any:
        same = len(self.seen) == len(args) and all(ref() is x and at == x._version for (ref, at), x in zip(self.seen, args, strict=True))
        if not same or not args:
            self.kept, self.seen = self.body(*args), [(weakref.ref(x), x._version) for x in args]
        return self.kept


def cond(answer: Any, if_true: Callable[..., Any], if_false: Callable[..., Any], operands: Sequence[Any] = ()) -> Any:
    """One of two branches, as the answer says."""
    return (if_true if bool(answer) else if_false)(*operands)


def while_loop(
    condition: Callable[..., Any], body: Callable[..., Any], carried: Sequence[Any], others: Sequence[Any] = ()
) -> tuple[Any, ...]:
    """Rounds of the body as long as the condition holds."""
    state = tuple(carried)
    while bool(condition(*state, *others)):
        state = tuple(body(*state, *others))
    return state


def scan(step: Callable[..., Any], start: Sequence[Tensor], slices: Sequence[Tensor], others: Sequence[Any] = ()) -> list[Tensor]:
    """A step for each slice, which hands its state to the next; the last state, then what every step gave."""
    state, given = list(start), []
    for at in range(len(slices[0])):
        found = list(step(*state, *(each[at] for each in slices), *others))
        state, rest = found[: len(start)], found[len(start) :]
        given.append(rest)
    return [*state, *(torch.stack(each) for each in zip(*given, strict=True))]


def map_slices(step: Callable[..., Any], slices: Sequence[Tensor], others: Sequence[Any] = ()) -> list[Tensor]:
    """A step for each slice, alone."""
    found = [step(*(each[at] for each in slices), *others) for at in range(len(slices[0]))]
    return [torch.stack(each) for each in zip(*found, strict=True)]


def draws(func: Any, args: Sequence[Any], words: dict[str, Any]) -> bool:
    """Does an operator draw random numbers? With a dropout of 0 it draws none."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    for at, argument in enumerate(func._schema.arguments):
        if argument.name in ("dropout_p", "p"):
            given = args[at] if at < len(args) else words.get(argument.name, argument.default_value)
            return given != 0.0
    return True


class Drawn(TorchDispatchMode):
    """Keeps what random operators draw while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.values: deque[Any] = deque()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        if draws(func, args, kwargs or {}):
            self.values.append(value)
        return value


class Float64(TorchDispatchMode):
    """Computes in float64, with the draws of a run in the program's own precision. A cast to fewer bits is part of the program and stays."""

    def __init__(self, drawn: deque[Any]) -> None:
        super().__init__()
        self.drawn = drawn

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        words = kwargs or {}
        if draws(func, args, words):
            value = self.drawn.popleft()
            if func is torch.ops.aten.native_dropout.default:
                return args[0] * value[1] / (1 - args[1]), value[1]
            return tree_map_only(Tensor, _wide, value)
        if func is torch.ops.aten._to_copy.default and _narrows(words.get("dtype")):
            return _wide(args[0].to(words["dtype"]))
        value = func(*(widened(each) for each in args), **{key: widened(each) for key, each in words.items()})
        return tree_map_only(Tensor, _wide, value)


def widened(value: Any) -> Any:
    """A dtype of floating-point numbers as that of float64."""
    if not isinstance(value, torch.dtype):
        return value
    return torch.float64 if value.is_floating_point else torch.complex128 if value.is_complex else value


@dataclass
class Check:
    """The verdict on one program: bitwise, rounding, approximate or refuted."""

    kind: str
    reason: str
    tensor: str = ""
    error: float = 0.0


class Reference:
    """The captured program's outputs for one seed: in its own precision, and, when somebody asks, in float64."""

    def __init__(self, captured: Run, given: Given, outputs: Sequence[str], seed: int) -> None:
        self.captured, self.given, self.outputs, self.seed = captured, given, outputs, seed
        recording = Drawn()
        with recording:
            self.own = run(captured, given, seed)
        self.drawn = recording.values
        self._float64: list[Tensor] = []

    @property
    def exact(self) -> list[Tensor]:
        if not self._float64:
            wide = {name: _wide(value) for name, value in self.given.items()}
            with Float64(self.drawn):
                self._float64 = run(self.captured, wide, self.seed)
        return self._float64

    def check(self, before: list[Tensor], after: list[Tensor], exactness: str) -> Check:
        """One step, given the outputs before and after it."""
        if [(x.shape, x.dtype) for x in before] != [(x.shape, x.dtype) for x in after]:
            return Check("refuted", "the outputs have other shapes or dtypes")
        if all(map(_same_bits, before, after)):
            return Check("bitwise", f"every output is equal bit for bit{_blind(before)}")
        excess, tensor, error = max(self.excesses(after))
        if excess <= 1:
            return Check("rounding", "the error against float64 stays within that of the captured program", tensor, error)
        roughly = self.roughly(after)
        if exactness == "approximate":
            error, tensor = max((error, name) for name, error, _ in roughly)
            kind = "approximate" if error <= APPROXIMATE else "refuted"
            return Check(kind, f"compared with the tolerance of {APPROXIMATE:.0%}", tensor, error)
        if max(self.excesses(before))[0] > 1 and self.adds_little(before, roughly):
            return Check("rounding", "hardly further from float64 than the program before, which is approximate", tensor, error)
        return Check("refuted", "further from float64 than rounding explains", tensor, error)

    def excesses(self, values: list[Tensor]) -> list[tuple[float, str, float]]:
        """How far each output is from float64, in units of what rounding explains."""
        found, largest = [], self.largest()
        for name, value, own, exact in zip(self.outputs, values, self.own, self.exact, strict=True):
            floor = FLOOR * largest[name.partition(" ")[0]]
            error = _error(value, own, exact, floor)
            allowed = max(FACTOR * _error(own, own, exact, floor), _forgiven(own))
            found.append((error / allowed if allowed else (0.0 if error == 0 else math.inf), name, error))
        return found

    def roughly(self, values: list[Tensor]) -> list[tuple[str, float, float]]:
        """Name, error, and the captured program's own error; what is zero but for rounding is measured against larger numbers."""
        found, largest = [], self.largest()
        for name, value, own, exact in zip(self.outputs, values, self.own, self.exact, strict=True):
            top = largest[name.partition(" ")[0]]
            floor = (CANCELLED if _largest(exact) < FLOOR * top else FLOOR) * top
            found.append((name, _error(value, own, exact, floor), _error(own, own, exact, floor)))
        return found

    def adds_little(self, before: list[Tensor], roughly: list[tuple[str, float, float]]) -> bool:
        """Is every output hardly further from float64 than before?"""
        pairs = zip(self.roughly(before), roughly, self.own, strict=True)
        return all(new <= min(APPROXIMATE, max(BEHIND * old, FACTOR * own, _forgiven(x))) for (_, old, _), (_, new, own), x in pairs)

    def largest(self) -> dict[str, float]:
        """The largest magnitude among the outputs of each role."""
        found: dict[str, float] = {}
        for name, value in zip(self.outputs, self.exact, strict=True):
            role = name.partition(" ")[0]
            found[role] = max(found.get(role, 0.0), _largest(value))
        return found


def run(program: Run, given: Given, seed: int = 0, copies: bool = True) -> list[Tensor]:
    """A program's outputs. Random operators start from the seed; inputs that the program writes over are given as copies."""
    own = {name: value.clone() if copies and program.__name__ in OVERWRITING else value for name, value in given.items()}
    CONSTANTS.clear()
    CONSTANTS.update({name: value for name, value in own.items() if name.startswith("constant ")})
    torch.manual_seed(seed)
    with torch.no_grad():
        return program(own)


OVERWRITING: set[str] = set()  # programs that put a new weight where the old one was


def placed(given: Given) -> Given:
    """The inputs on the chosen device."""
    return {name: value.to(DEVICE.now) for name, value in given.items()}


def checks(programs: dict[str, tuple[Run, str]], inputs: Callable[[int], Given], outputs: Sequence[str], seed: int) -> dict[str, Check]:
    """Every program against the one before it; a refutation must show on a second seed too."""
    names = list(programs)
    given = placed(inputs(seed))
    versions = {name: value._version for name, value in given.items()}
    reference = Reference(programs[names[0]][0], given, outputs, seed)
    before, found = reference.own, dict[str, Check]()
    for name in names[1:]:
        program, exactness = programs[name]
        after = run(program, given, seed)
        found[name] = reference.check(before, after, exactness)
        if any(value._version != versions[key] for key, value in given.items()):
            raise SystemExit(f"{name} writes into its inputs")
        before = after
    refuted = [name for name, check in found.items() if check.kind == "refuted"]
    if refuted and seed >= 0:
        second = checks(programs, inputs, outputs, -1 - seed)
        found.update({name: second[name] for name in refuted if second[name].kind != "refuted"})
    return found


def times(first: Run, last: Run, given: Given, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds of two programs, measured in turns, so that what else the machine does meets both."""
    found: tuple[list[float], list[float]] = ([], [])
    for at in range(rounds + 2):
        for program, kept in zip((first, last) if at % 2 else (last, first), found[:: 1 if at % 2 else -1], strict=True):
            ready()
            start = time.perf_counter()
            run(program, given, copies=False)
            ready()
            if at >= 2:  # the first rounds load and compile
                kept.append((time.perf_counter() - start) * 1e3)
    return found


def ready() -> None:
    """Waits until the device has done what it was told."""
    if DEVICE.now.type == "cuda":
        torch.cuda.synchronize()


def interval(values: list[float]) -> tuple[float, float, float]:
    """Median, and the order statistics between which it lies with about 95 % confidence."""
    ranked = sorted(values)
    half = len(ranked) / 2
    reach = 0.98 * math.sqrt(len(ranked))
    return statistics.median(ranked), ranked[max(0, int(half - reach))], ranked[min(len(ranked) - 1, int(half + reach))]


def print_times(names: Sequence[str], programs: Sequence[Run], given: Given, rounds: int) -> None:
    """Time of the first and the last program, measured here and now."""
    if any(program.__name__ in OVERWRITING for program in programs):
        given = {name: value.clone() for name, value in given.items()}
    old, new = times(programs[0], programs[1], given, rounds)
    print(f"\nmeasured on {DEVICE.now}, compute threads: {torch.get_num_threads()}, {rounds} rounds in turns, median [95 % interval]:")
    for name, values in zip(names, (old, new), strict=True):
        print("  {}: {:.3f} ms [{:.3f}, {:.3f}]".format(name, *interval(values)))
    print("  ratio: {:.3f} [{:.3f}, {:.3f}]".format(*interval([b / a for a, b in zip(old, new, strict=True)])))
    if DEVICE.now.type == "cuda":
        for name, program in zip(names, programs, strict=True):
            torch.cuda.reset_peak_memory_stats()
            start = torch.cuda.memory_allocated()
            run(program, given, copies=False)
            print(f"  {name}: {(torch.cuda.max_memory_allocated() - start) / 2**20:.1f} MiB above its inputs at its peak, measured")


def same_machine(version: str, processor: str) -> bool:
    """Is generated code for here? It was generated by one version of torch, for one kind of vector instructions."""
    return torch.__version__ == version and str(pick_vec_isa()) == processor


def main(
    programs: dict[str, tuple[Run, str]], inputs: Callable[[int], Given], outputs: Sequence[str], made_by: tuple[str, str], words: list[str]
) -> int:
    """Checks every program and times the first against the last. Returns 1 where one is refuted."""
    parser = argparse.ArgumentParser(description="Checks that every program gives the same answers, and measures what it gained.")
    parser.add_argument("--device", default=DEVICE.now.type, help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0, help="of inputs and random operators")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of timing; 0 for none")
    parser.add_argument("--plain", action="store_true", help="run fused parts operator by operator, without their generated code")
    asked = parser.parse_args(words)
    DEVICE.now = torch.device(asked.device)
    DEVICE.plain = asked.plain or not same_machine(*made_by)
    found = checks(programs, inputs, outputs, abs(asked.seed))
    names = list(programs)
    print(f"checked against {names[0]}, {len(outputs)} outputs, seed {asked.seed}:")
    for name, check in found.items():
        worst = f": {check.tensor}, error {check.error:.2g} of its largest value" if check.tensor else ""
        print(f"  {name}: {check.kind} ({check.reason}{worst})")
    if len(names) > 1 and asked.rounds > 0:
        ends = [names[0], names[-1]]
        print_times(ends, [programs[name][0] for name in ends], placed(inputs(abs(asked.seed))), asked.rounds)
    return int(any(check.kind == "refuted" for check in found.values()))
