"""Same answers, same gradients? The verdict of a step.

Both programs run on the same seeded random inputs. If every output is equal bit for bit (the sign of a zero counts, the payload of a
NaN does not) the verdict is `bitwise`. Otherwise each output is compared with a float64 run of the unoptimized program: `rounding` when
its error is within a small factor of the unoptimized program's own error, `approximate` when the optimization asked for that and stays
within its tolerance, `refuted` else. Behind an approximate step `rounding` means: hardly further from float64 than the graph
before, for its answers have an error of their own, and what is rounded to few bits rounds another way for the least change. An element that is infinite or not a number must be so in the unoptimized program's run or in that
of float64; a whole number or a truth value must be that of one of the two. No graph may write into its inputs, but for a parameter, a buffer or a
state whose new value it leaves there.

A judge that proves first (`sameness`) runs only what is not proven to be equal bit for bit from the graphs alone; the verdict says which it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from graphs.errors import TooLargeError
from graphs.program import OutputSpec, Program
from graphs.snapshot import snapshot
from optimizers.base import is_random
from optimizers.record import Exactness, Verdict, WorstTensor
from optimizers.sameness import prove

FACTOR = 8.0  # how much larger than the unoptimized program's own error still counts as rounding
EPSILONS = 64.0  # in units of the dtype's epsilon: what is always forgiven,
FORGIVEN = 0.03  # but never more than this share: 64 epsilons of bfloat16 would be a half
FLOAT64 = 1e-10  # what is forgiven in float64, where no finer run shows the unoptimized program's own error
APPROXIMATE = 0.05
CANCELLED = 0.1  # the share against which an approximation of such tensors is judged
BEHIND = 2.0  # how much larger the error may be than that of a graph that is approximate already
FLOOR = 1e-4  # tensors smaller than this share of their role's largest are judged against that share
GIB = 1 << 30
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Recording(fx.Interpreter):
    """Runs a graph and keeps what its random operators drew."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.drawn: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if is_random(n):
            self.drawn[n.name] = value
        return value


class _Float64(fx.Interpreter):
    """Runs a graph in float64, with the random draws of a run in its own precision."""

    def __init__(self, gm: fx.GraphModule, drawn: dict[str, Any]) -> None:
        super().__init__(gm)
        self.drawn = drawn

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self.drawn:
            return self._replayed(n, self.drawn[n.name])
        value = super().run_node(n)
        if isinstance(value, fx.GraphModule):
            return _Float64(value, {}).run  # a branch or a loop's body
        return _wide(value) if n.op in ("placeholder", "get_attr") else value

    def _replayed(self, n: fx.Node, drawn: Any) -> Any:
        if n.target is torch.ops.aten.native_dropout.default:
            (value, probability, *_), _kwargs = self.fetch_args_kwargs_from_env(n)
            return value * drawn[1] / (1 - probability), drawn[1]
        return pytree.tree_map_only(Tensor, _wide, drawn)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        def widen(value: Any) -> Any:
            if not isinstance(value, torch.dtype):
                return value
            return torch.float64 if value.is_floating_point else torch.complex128 if value.is_complex else value

        if target is torch.ops.aten._to_copy.default and _narrows(kwargs.get("dtype")):
            return _wide(args[0].to(kwargs["dtype"]))  # a cast that the model asked for is part of its meaning
        args, kwargs = tuple(map(widen, args)), {key: widen(value) for key, value in kwargs.items()}
        value = super().call_function(target, args, kwargs)
        return pytree.tree_map_only(Tensor, _wide, value)


def _narrows(dtype: torch.dtype | None) -> bool:
    return dtype in (torch.bfloat16, torch.float16)


def _wide(value: Any) -> Any:
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return value
    dtype = torch.complex128 if value.is_complex() else torch.float64
    wide = value.to(dtype)
    if wide.stride() == value.stride():
        return wide
    # Every second element, say: the graph may count on the gaps (as_strided), so the whole storage is widened.
    whole = value.as_strided((value.untyped_storage().nbytes() // value.element_size(),), (1,), 0)
    return whole.to(dtype).as_strided(value.shape, value.stride(), value.storage_offset())


class Judge:
    """Judges steps against one unoptimized program.

    Args:
        confirm: does a refutation by size of error need a second seed?
        prove_first: is what can be proven from the graphs alone not run?
    """

    def __init__(self, program: Program, seed: int = 0, confirm: bool = True, prove_first: bool = False) -> None:
        self.program, self.seed, self._confirm, self._prove_first = program, seed, confirm, prove_first
        self._inputs: list[Tensor] = []
        self._baseline: list[Tensor] = []
        self._drawn: dict[str, Any] = {}
        self._float64: list[Tensor] = []
        self._last: tuple[Program, list[Tensor]] | None = None
        self._versions: list[int] = []
        self._too_large = ""

    @staticmethod
    def not_judged() -> Verdict:
        return Verdict("not run", reason="verification was not asked for")

    def verdict(self, before: Program, after: Program, exactness: Exactness) -> Verdict:
        """The proof, where the judge proves first and there is one; else by running."""
        if self._prove_first:
            found = prove(before, after)
            if found.proven:
                return Verdict("bitwise", reason=found.reason, tensors=len(after.outputs), how="proven")
        return self.by_running(before, after, exactness)

    def by_running(self, before: Program, after: Program, exactness: Exactness) -> Verdict:
        """Runs what has not been run yet and compares."""
        try:
            self._prepare()
        except TooLargeError as error:
            return Verdict("not run", reason=str(error))
        old = self._outputs(before)
        try:
            new = self._outputs(after)
        except Exception as error:
            return Verdict("refuted", reason=f"the rewritten graph does not run: {type(error).__name__}: {str(error)[:300]}")
        written = self._written_input()
        if written:
            return Verdict("refuted", reason=f"the rewritten graph writes into its input {written}")
        specs = self.program.outputs
        if len(new) != len(old):
            return Verdict("refuted", reason=f"{len(old)} outputs became {len(new)}")
        for spec, a, b in zip(specs, old, new, strict=True):
            if a.shape != b.shape or a.dtype != b.dtype:
                change = f"{a.dtype}{list(a.shape)} became {b.dtype}{list(b.shape)}"
                worst = WorstTensor(_name(spec), float("inf"), 0.0)
                return Verdict("refuted", worst, f"{_name(spec)}: {change}", len(new))
        if all(_same_bits(a, b) for a, b in zip(old, new, strict=True)):
            return Verdict("bitwise", reason=f"every output is equal bit for bit{_blind(old)}", tensors=len(new))
        verdict = self._against_reference(old, new, exactness)
        if verdict.kind != "refuted" or not self._confirm:
            return verdict
        # One value that rounds the other way at a cast can look like an error; a real error shows on other inputs too.
        second = Judge(self.program, self.seed + 1, confirm=False).by_running(before, after, exactness)
        return verdict if second.kind == "refuted" else second

    def _prepare(self) -> None:
        if self._too_large:
            raise TooLargeError(self._too_large)
        if self._baseline:
            return
        self._check_size()
        self._make_inputs()
        recording = _Recording(self.program.gm)
        torch.manual_seed(self.seed)
        with torch.no_grad():
            self._baseline = list(recording.run(*self._inputs))
        self._drawn = recording.drawn
        self._last = (self.program, self._baseline)

    @property
    def _reference(self) -> list[Tensor]:
        """The outputs in float64: run only when a step is not equal bit for bit, for it takes longer than all else."""
        if not self._float64:
            torch.manual_seed(self.seed)
            with torch.no_grad():
                self._float64 = list(_Float64(self.program.gm, self._drawn).run(*map(_wide, self._inputs)))
            self._drawn = {}
        return self._float64

    def _make_inputs(self) -> None:
        self._inputs = self.program.materialize(self.seed)
        self._versions = [value._version for value in self._inputs]

    def _written_input(self) -> str:
        """The name of an input that a run wrote into, if any; the inputs are then made anew."""
        changed = [at for at, value in enumerate(self._inputs) if value._version != self._versions[at]]
        if not changed:
            return ""
        self._make_inputs()
        return self.program.inputs[changed[0]].target

    def _check_size(self) -> None:
        """Weights in two precisions, and the peak of the float64 run beside the outputs kept."""
        need = 4 * self.program.input_bytes() + 4 * snapshot(self.program).totals.peak_bytes
        have = _available_bytes()
        if need > have:
            self._too_large = f"verification needs about {need / GIB:.1f} GiB and {have / GIB:.1f} GiB are free"
            raise TooLargeError(self._too_large, help="Choose a smaller batch, sequence or fewer layers.")

    def _outputs(self, program: Program) -> list[Tensor]:
        if self._last and self._last[0] is program:
            return self._last[1]
        # What the graph overwrites with its new value it may have: a copy, for the next graph begins with the old value too.
        gone = program.overwrites()
        given = [value.clone() if at in gone else value for at, value in enumerate(self._inputs)]
        outputs = [value for value in program.run(given, self.seed) if value is not None]
        self._last = (program, outputs)
        return outputs

    def _against_reference(self, old: list[Tensor], new: list[Tensor], exactness: Exactness) -> Verdict:
        worst, excess = self._furthest(new)
        if excess <= 1:
            return Verdict("rounding", worst, "the error against float64 stays within that of the unoptimized program", len(new))
        if exactness == "approximate":
            roughly = max(self._roughly(new), key=lambda one: one.error)
            if roughly.error <= APPROXIMATE:
                return Verdict("approximate", roughly, f"within the tolerance of {APPROXIMATE:.0%}", len(new))
            return Verdict(
                "refuted", roughly, f"{roughly.tensor} is further from float64 than the tolerance of {APPROXIMATE:.0%}", len(new)
            )
        if self._furthest(old)[1] > 1 and self._adds_little(old, new):
            near = "the error against float64 is hardly larger than that of the graph before, which is approximate"
            return Verdict("rounding", worst, near, len(new))
        return Verdict("refuted", worst, f"{worst.tensor} is further from float64 than rounding explains", len(new))

    def _furthest(self, values: list[Tensor]) -> tuple[WorstTensor, float]:
        """The output that is furthest from float64, in units of what rounding explains."""
        specs, largest = self.program.outputs, self._largest_by_role()
        worst, worst_excess = None, -1.0
        for spec, value, own, reference in zip(specs, values, self._baseline, self._reference, strict=True):
            floor = FLOOR * largest[spec.role]
            error, own_error = _error(value, own, reference, floor), _error(own, own, reference, floor)
            allowed = max(FACTOR * own_error, _forgiven(own))
            excess = error / allowed if allowed else (0.0 if error == 0 else float("inf"))
            if excess > worst_excess:
                worst, worst_excess = WorstTensor(_name(spec), error, own_error), excess
        assert worst is not None
        return worst, worst_excess

    def _roughly(self, values: list[Tensor]) -> list[WorstTensor]:
        """The error of every output of an approximation. A tensor below the floor is zero but for rounding, such as the gradient of a bias before a
        batch norm: what is left of it when large numbers cancel is measured against such numbers."""
        found, largest = [], self._largest_by_role()
        for spec, value, own, reference in zip(self.program.outputs, values, self._baseline, self._reference, strict=True):
            floor = FLOOR * largest[spec.role]
            if _largest(reference) < floor:
                floor = CANCELLED * largest[spec.role]
            found.append(WorstTensor(_name(spec), _error(value, own, reference, floor), _error(own, own, reference, floor)))
        return found

    def _adds_little(self, old: list[Tensor], new: list[Tensor]) -> bool:
        """Behind an approximate step: is every output hardly further from float64 than before?"""
        pairs = zip(self._roughly(old), self._roughly(new), self._baseline, strict=True)
        return all(
            after.error <= min(APPROXIMATE, max(BEHIND * before.error, FACTOR * after.before_error, _forgiven(own)))
            for before, after, own in pairs
        )

    def _largest_by_role(self) -> dict[str, float]:
        largest: dict[str, float] = {}
        for spec, value in zip(self.program.outputs, self._reference, strict=True):
            largest[spec.role] = max(largest.get(spec.role, 0.0), _largest(value))
        return largest


def _name(spec: OutputSpec) -> str:
    return spec.role if spec.role == spec.target else f"{spec.role} {spec.target}"


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    if not a.is_floating_point():
        return torch.equal(a, b)
    if a.element_size() in BITS and torch.equal(a.view(BITS[a.element_size()]), b.view(BITS[a.element_size()])):
        return True
    return bool(((a == b) & (a.signbit() == b.signbit()) | (a.isnan() & b.isnan())).all())


def _blind(values: Sequence[Tensor]) -> str:
    """What equal bits do not tell: which outputs are no numbers, before as after."""
    lost = sum(bool(_real(value).isnan().any()) for value in values if value.is_floating_point() or value.is_complex())
    return f"; but {lost} of {len(values)} outputs hold NaN, before as after, where nothing can be compared" if lost else ""


def _finite(value: Tensor) -> Tensor:
    return torch.nan_to_num(_real(value), nan=0.0, posinf=0.0, neginf=0.0)


def _real(value: Tensor) -> Tensor:
    return torch.view_as_real(value.resolve_conj()).double() if value.is_complex() else value.double()


def _largest(value: Tensor) -> float:
    return float(_finite(value).abs().max()) if value.numel() else 0.0


def _error(value: Tensor, own: Tensor, reference: Tensor, floor: float) -> float:
    """Largest difference from the reference over the reference's largest magnitude.

    Infinite where an element is infinite or not a number and neither the unoptimized program's own nor the reference's is so in
    the same way, and where a whole number is that of neither: such elements are no matter of rounding.
    """
    if not value.numel():
        return 0.0
    wide, mine, exact = _real(value), _real(own), _real(reference).to(value.device)
    exactly = not (value.is_floating_point() or value.is_complex())
    if exactly and bool(((value != own) & (wide != exact)).any()):
        return float("inf")
    if not bool((wide.isfinite() & exact.isfinite()).all()):
        kind = _kind(wide)
        if bool(((kind != _kind(exact)) & (kind != _kind(mine))).any()):
            return float("inf")
    scale = max(_largest(reference), floor, 1e-30)
    both = wide.isfinite() & exact.isfinite()
    return float(torch.where(both, wide - exact, 0.0).abs().max()) / scale


def _kind(value: Tensor) -> Tensor:
    """0 for finite numbers; 1, 2, 3 for infinite, negative infinite, not a number."""
    return value.isposinf() * 1 + value.isneginf() * 2 + value.isnan() * 3


def _forgiven(value: Tensor) -> float:
    if not (value.is_floating_point() or value.is_complex()):
        return 0.0
    epsilon = torch.finfo(value.dtype).eps
    return FLOAT64 if epsilon < 1e-15 else min(EPSILONS * epsilon, FORGIVEN)


def _available_bytes() -> int:
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
