"""A search over graphs: moves are single rewrites of the catalogue, the price is predicted time, and a worse graph may be kept because of what it leads to.

Greedy takes the best improving move until there is none. The beam keeps the cheapest few graphs of every length, better or worse, and remembers the
cheapest of all. Graphs that are equal but for names are one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from graphs.cost import cost
from graphs.kernels import text_of
from graphs.program import InputSpec, Program
from graphs.regions import Prepared
from optimizers.planning.profit import MACHINES, Machine, predicted_seconds
from optimizers.record import Move


@dataclass(frozen=True)
class State:
    """A graph that was reached, its price in seconds, and the moves that led to it."""

    program: Program
    price: float
    path: tuple[Move, ...]
    key: str


@dataclass(frozen=True)
class Searched:
    """What greedy and the beam came to, and how many graphs were priced."""

    start: float
    greedy: State
    found: State
    priced: int


def program_of(gm: fx.GraphModule) -> Program:
    """A graph alone as a program, so that the runner can work on it."""
    inputs = tuple(InputSpec(node.name, node.meta.get("role", ""), node.name) for node in gm.graph.find_nodes(op="placeholder"))
    phases = {node.meta["origin"].phase for node in gm.graph.nodes if "origin" in node.meta}
    value = next(node.meta["val"] for node in gm.graph.nodes if hasattr(node.meta.get("val"), "device"))
    return Program(gm, inputs, (), lambda seed: {}, "training" if "backward" in phases else "inference", value.device.type)


def search(gm: fx.GraphModule, width: int, depth: int, moves: Moves) -> Searched:
    """Greedy's graph and the best that a beam finds."""
    program = program_of(gm)
    machine = MACHINES[program.device]
    start = State(program, seconds(gm, machine), (), _key(gm))
    explorer = _Explorer(machine, moves)
    greedy = explorer.greedily(start, depth)
    found = explorer.beam(start, width, depth)
    best = min((greedy, found), key=lambda state: (state.price, len(state.path)))
    return Searched(start.price, greedy, best, len(explorer.known))


def seconds(gm: fx.GraphModule, machine: Machine) -> float:
    """Predicted time: for every operator a launch, and the longer of moving its bytes and doing its operations."""
    total = 0.0
    for node in gm.graph.nodes:
        if node.op == "call_function" and not isinstance(node.target, Prepared):
            total += predicted_seconds(cost(node), machine)
    return total


def _key(gm: fx.GraphModule) -> str:
    return hashlib.sha256(text_of(gm).encode()).hexdigest()


class Moves:
    """What can be done to a graph in one move."""

    def of(self, program: Program) -> Iterator[tuple[str, Program]]:
        """(the step's words, the graph after it) for every single rewrite."""
        raise NotImplementedError


class _Explorer:
    def __init__(self, machine: Machine, moves: Moves) -> None:
        self.machine, self.moves = machine, moves
        self.known: dict[str, float] = {}
        self._after: dict[str, list[State]] = {}

    def after(self, state: State) -> list[State]:
        """Every graph one move away, cheapest first."""
        if state.key not in self._after:
            found = []
            for words, program in self.moves.of(state.program):
                key = _key(program.gm)
                price = self.known.setdefault(key, seconds(program.gm, self.machine))
                found.append(State(program, price, (Move(words, price),), key))
            self._after[state.key] = sorted(found, key=lambda one: one.price)
        steps = self._after[state.key]
        return [State(one.program, one.price, (*state.path, *one.path), one.key) for one in steps]

    def greedily(self, state: State, depth: int) -> State:
        for _ in range(depth):
            nearest = self.after(state)
            if not nearest or nearest[0].price >= state.price:
                break
            state = nearest[0]
        return state

    def beam(self, start: State, width: int, depth: int) -> State:
        best, level, seen = start, [start], {start.key}
        for _ in range(depth):
            following: dict[str, State] = {}
            for state in level:
                for one in self.after(state):
                    if one.key not in seen and (one.key not in following or one.price < following[one.key].price):
                        following[one.key] = one
            level = sorted(following.values(), key=lambda one: one.price)[:width]
            seen |= following.keys()
            if not level:
                break
            best = min(best, level[0], key=lambda one: one.price)
        return best
