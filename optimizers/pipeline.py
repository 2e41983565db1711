"""apply(): the only runner. Clone, find, rewrite, dead code, fake shapes, provenance, lint, and the Step record."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from graphs.bodies import bodies, held_graph
from graphs.diff import diff
from graphs.errors import FxscopeError, RequestError, RewriteError
from graphs.origin import Origin, merged
from graphs.program import Program
from graphs.record import GraphSnapshot, Totals
from graphs.snapshot import snapshot
from optimizers.base import COPY_OF, Match, Miss, Optimization, is_random
from optimizers.catalog import catalog, named, parse_settings
from optimizers.in_place import foreign_writer, is_in_place, make_functional, put_in_place_again
from optimizers.patterns.layouts import AS_CAPTURED, can_be_restored, remember, unreadable
from optimizers.record import Claim, MatchRecord, MissRecord, Offer, SearchRecord, StepRecord
from optimizers.verify import Judge

REWRITE_LIMIT = 20_000
MISS_LIMIT = 200
VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


@dataclass(frozen=True)
class Applied:
    """The program after a step, its snapshot, and the record of the step."""

    program: Program
    snapshot: GraphSnapshot
    step: StepRecord


def apply(program: Program, before: GraphSnapshot, name: str, settings: Mapping[str, str], judge: Judge | None = None) -> Applied:
    """Applies one optimization of the catalog and records the step. `program` is left as it is.

    Raises:
        RequestError: unknown optimization, setting or site.
        RewriteError: the rewrite broke the graph.
    """
    return apply_optimization(program, before, named(name), settings, judge)


def apply_optimization(
    program: Program,
    before: GraphSnapshot,
    optimization: Optimization,
    settings: Mapping[str, str],
    judge: Judge | None = None,
) -> Applied:
    """The same for an optimization at hand."""
    start = time.perf_counter()
    parameters, only = parse_settings(optimization, settings)
    changed = program.clone()
    if not optimization.in_place:
        make_functional(changed.gm)
    remember(changed.gm)
    matches, misses = matches_and_misses(changed, optimization, parameters)
    chosen = _chosen(matches, only, optimization.name)
    records = tuple(_match_record(match) for match in chosen)
    sites = tuple(match.anchor.name for match in matches)
    missed = tuple(MissRecord(miss.node.name, miss.reason) for miss in misses[:MISS_LIMIT])
    try:
        _rewrite_all(changed.gm, optimization, chosen)
        put_in_place_again(changed.gm)
        changed.gm.recompile()
    except FxscopeError:
        raise
    except Exception as error:
        message = f"{optimization.name} broke the graph: {type(error).__name__}: {error}"
        raise RewriteError(message, help="Remove this step; the graph before it is unharmed.") from error
    after = snapshot(changed) if chosen else before
    if is_in_place(program.gm) and _raises_peak(optimization, before, after):
        missed = (MissRecord(chosen[0].anchor.name, _lost(before, after)), *missed)
        chosen, records, sites, after = [], (), (), before
    if not chosen:
        changed = program.clone()
    verdict = judge.verdict(program, changed, optimization.exactness) if judge else Judge.not_judged()
    inner = [*(f"{key}={value}" for key, value in sorted(settings.items()))]
    return Applied(
        changed,
        after,
        StepRecord(
            optimization=optimization.name,
            words=f"{optimization.name}({','.join(inner)})" if inner else optimization.name,
            parameters={**parameters, **({"only": only} if only else {})},
            before=before.totals,
            after=after.totals,
            matches=records,
            misses=missed,
            sites=sites,
            diff=diff(before, after),
            verdict=verdict,
            claim_broken=broken_claims(optimization.claim, before.totals, after.totals),
            seconds=time.perf_counter() - start,
            search=next((match.data for match in chosen if isinstance(match.data, SearchRecord)), None),
        ),
    )


def _raises_peak(optimization: Optimization, before: GraphSnapshot, after: GraphSnapshot) -> bool:
    return optimization.claim.peak_bytes == "lower" and after.totals.peak_bytes > before.totals.peak_bytes


def _lost(before: GraphSnapshot, after: GraphSnapshot) -> str:
    change = f"from {before.totals.peak_bytes:,} to {after.totals.peak_bytes:,} bytes"
    return f"What writes in place here could not all do so behind this step, and the peak would go {change}: put it before the steps that write in place."


def sites(program: Program, optimization: Optimization, parameters: Mapping[str, int | str]) -> list[str]:
    """The places that an optimization finds, by their anchors."""
    looked_at = program if optimization.in_place else functional(program)
    return list(dict.fromkeys(match.anchor.name for match in matches_and_misses(looked_at, optimization, parameters)[0]))


def functional(program: Program) -> Program:
    """The program without writing in place: itself where it has none, else a copy."""
    if not is_in_place(program.gm):
        return program
    copy = program.clone()
    make_functional(copy.gm)
    return copy


def rewrite_here(gm: fx.GraphModule, optimization: Optimization, parameters: Mapping[str, int | str], only: str) -> None:
    """Rewrites a graph in place, without a record: for searches, which throw most of what they try away.

    Raises:
        RequestError: the place is not there.
    """
    matches = [found for found in optimization.find(gm, **parameters) if isinstance(found, Match)]
    _rewrite_all(gm, optimization, _chosen(matches, only, optimization.name))


def offers(program: Program) -> tuple[Offer, ...]:
    """What every optimization of the catalog could do on this graph."""
    found = []
    without = functional(program)
    for optimization in catalog().values():
        if program.mode not in optimization.applies_to or optimization.costly:
            continue
        looked_at = program if optimization.in_place else without
        matches, misses = matches_and_misses(looked_at, optimization, parse_settings(optimization, {})[0])
        sites = tuple(match.anchor.name for match in matches)
        found.append(Offer(optimization.name, sites, tuple(MissRecord(m.node.name, m.reason) for m in misses[:MISS_LIMIT])))
    return tuple(found)


def broken_claims(claim: Claim, before: Totals, after: Totals) -> tuple[str, ...]:
    """The totals that went against the claim, one sentence each."""
    found = []
    for total in ("launches", "flops", "bytes_moved", "peak_bytes"):
        promise, old, new = getattr(claim, total), getattr(before, total), getattr(after, total)
        kept = {"any": True, "same": new == old, "lower": new <= old, "higher": new >= old}[promise]
        if not kept:
            found.append(f"{total} was promised {promise} and went from {old:,} to {new:,}")
    return tuple(found)


def matches_and_misses(program: Program, optimization: Optimization, parameters: Mapping[str, int | str]) -> tuple[list[Match], list[Miss]]:
    """The places that an optimization finds, and the near-misses.

    Args:
        program: in the functional dialect, unless the optimization is declared safe `in_place`.
    """
    if program.mode not in optimization.applies_to:
        return [], [Miss(program.gm.graph.output_node(), f"It applies to {' and '.join(optimization.applies_to)} only.")]
    writer = None if optimization.in_place else foreign_writer(program.gm)
    if writer is not None:
        return [], [Miss(writer, f"{writer.name} writes in place, and no step put it there: what it means otherwise is not known.")]
    found = list(optimization.find(program.gm, **parameters))
    return [f for f in found if isinstance(f, Match)], [f for f in found if isinstance(f, Miss)]


def _chosen(matches: list[Match], only: str, name: str) -> list[Match]:
    chosen = [match for match in matches if not only or match.anchor.name == only]
    if only and not chosen:
        sites = ", ".join(match.anchor.name for match in matches[:5]) or "none"
        raise RequestError(f"`{name}` finds no place at `{only}`", where=f"only={only}", help=f"Places here: {sites}.")
    if len(chosen) > REWRITE_LIMIT:
        raise RewriteError(f"{name} found {len(chosen):,} places", help=f"The limit is {REWRITE_LIMIT:,}.")
    return chosen


def _match_record(match: Match) -> MatchRecord:
    return MatchRecord(match.anchor.name, tuple(node.name for node in match.nodes), match.note)


def _rewrite_all(gm: fx.GraphModule, optimization: Optimization, matches: list[Match]) -> None:
    """Rewrites every match, then tidies: what died by the rewrites, shapes, lint, code."""
    # What nobody read before the step is remove-dead-code's to take; what lost its last reader by the step goes with it, also where
    # that reader is dead code itself: else what a rewrite replaced in dead code would stand beside its replacement.
    unread_before = {node for node in gm.graph.nodes if not node.users}
    fresh: set[fx.Node] = set()
    for match in matches:
        if any(node._erased for node in match.nodes):
            continue  # an earlier match took this place
        with _provenance(gm, match, fresh):
            optimization.rewrite(gm, match)
    for node in reversed(list(gm.graph.nodes)):
        if not node.users and node not in unread_before and node.op in ("call_function", "get_attr") and not is_random(node):
            gm.graph.erase_node(node)
    _propagate(gm, fresh)
    gm.graph.lint()
    gm.recompile()


@contextmanager
def _provenance(gm: fx.GraphModule, match: Match, fresh: set[fx.Node]) -> Iterator[None]:
    """Nodes created while a match is rewritten come from the match's nodes; those that take over a node's users, and nodes whose
    input was replaced, are noted so that shapes are computed anew."""
    origins = [node.meta["origin"] for node in match.nodes]
    created: list[fx.Node] = []
    replaced: list[tuple[fx.Node, str, fx.Node]] = []
    on_create = created.append

    def on_replace(old: fx.Node, new: str, user: fx.Node) -> None:
        replaced.append((old, new, user))

    gm._register_create_node_hook(on_create)
    gm._register_replace_node_hook(on_replace)
    try:
        yield
    finally:
        gm._unregister_create_node_hook(on_create)
        gm._unregister_replace_node_hook(on_replace)
    for node in created:
        if not node._erased:
            own = node.meta.get("origin")
            node.meta["origin"] = own if isinstance(own, Origin) else _origin_of_new(node, origins)
            fresh.add(node)
    made = {node.name: node for node in created}
    fresh.update(user for old, new, user in replaced if new not in made or made[new].meta.get(COPY_OF) is not old)


def _origin_of_new(node: fx.Node, origins: list[Origin]) -> Origin:
    """All names of the match; the phase of the latest input made by the graph, so that backward work is drawn in backward."""
    phases = [read.meta["origin"].phase for read in node.all_input_nodes if "origin" in read.meta]
    late = [phase for phase in phases if phase in ("backward", "recompute")]
    whole = merged(origins)
    return whole.into(late[0]) if late else whole.into(phases[-1]) if phases else whole


def _propagate(gm: fx.GraphModule, fresh: set[fx.Node]) -> None:
    """Fake values of new nodes and of everything that reads a value whose layout moved."""
    mode = next(n.meta["val"].fake_mode for n in gm.graph.nodes if isinstance(n.meta.get("val"), FakeTensor))
    dirty = {node for node in fresh if not node._erased and not _is_plain_copy(node, fresh)}
    with mode, torch.no_grad():
        for node in list(gm.graph.nodes):
            if (node not in dirty and node.target is not AS_CAPTURED) or node.op not in ("call_function", "get_attr"):
                continue
            if bodies(node) or held_graph(node) is not None:
                continue  # what a body gives has the shapes that it was captured with
            for read in unreadable(node):
                if node.target is AS_CAPTURED and not can_be_restored(node):
                    raise RewriteError(
                        f"{node.name} speaks of the memory of {read.name}, which would lie otherwise",
                        help="Leave this place out of the step.",
                    )
                node.replace_input_with(read, _in_order(gm, node, read))
            value = _fake_value(gm, node)
            if _layout(value) != _layout(node.meta.get("val")):
                dirty.update(node.users)
            node.meta["val"] = value


def _is_plain_copy(node: fx.Node, fresh: set[fx.Node]) -> bool:
    """Is it a copy of an operator, its value that of the original? Where operands of it come to lie otherwise, it is looked at after them."""
    original = node.meta.pop(COPY_OF, None)
    return original is not None and original not in fresh and _operands(node) == _operands(original)


def _operands(node: fx.Node) -> list[object]:
    return [_layout(read.meta.get("val")) for read in node.all_input_nodes]


def _fake_value(gm: fx.GraphModule, node: fx.Node) -> object:
    if node.op == "get_attr":
        held = getattr(gm, str(node.target))  # a real tensor, which a fake mode may refuse to look at
        return torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device=held.device)
    try:
        return _call(node)
    except (RuntimeError, ValueError):
        if node.target not in VIEWS:
            raise
    # The new layout does not allow this view: copy first, and count the copy.
    node.update_arg(0, _in_order(gm, node, node.args[0]))  # type: ignore[arg-type]
    return _call(node)


def _in_order(gm: fx.GraphModule, node: fx.Node, read: fx.Node) -> fx.Node:
    """A copy of what the node reads, whose elements lie in order."""
    with gm.graph.inserting_before(node):
        copied = gm.graph.call_function(torch.ops.aten.clone.default, (read,), {"memory_format": torch.contiguous_format})
    copied.meta["origin"] = node.meta["origin"]
    copied.meta["val"] = _call(copied)
    return copied


def _call(node: fx.Node) -> object:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda read: read.meta["val"])  # type: ignore[misc]
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _layout(value: object) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape), tuple(value.stride()), value.dtype
    return tuple(map(_layout, value)) if isinstance(value, (tuple, list)) else None
