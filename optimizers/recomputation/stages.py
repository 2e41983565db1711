"""The cheapest schedule as a program of integers (Jain et al. 2020, *Checkmate*, MLSys), for problems that are too large for `states`.

The schedule is cut into stages: stage t ends with the first run of operator t, and before that every earlier operator runs at most once, in
the order of the graph. What is in memory at the beginning of each stage, what runs in it and what is freed after what are numbers 0 or 1, and
the bytes in memory follow from them. Schedules that run something twice for the same operator, or in another order, are outside: for chains there
is nothing to be gained by them, for other graphs sometimes where memory is very tight.

The same program goes to HiGHS, whose bounds are good, and to CP-SAT, which finds schedules sooner (both by OR-Tools).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from optimizers.recomputation.evaluate import Order, Run
from optimizers.recomputation.problem import Problem
from optimizers.recomputation.states import Table

CLOSE = 1e-4
SOLVERS = ("highs", "sat")


@dataclass(frozen=True)
class Solved:
    """The best order found, or None, and a cost that no staged schedule stays below; infinity where none keeps to the budget."""

    order: Order | None
    bound: float


def solve(problem: Problem, budget: int, solver: str, seconds: float, start: Order | None = None) -> Solved:
    """Asks one of SOLVERS for at most so many seconds; a schedule to start from helps it."""
    from ortools.linear_solver.python import model_builder  # loaded where it is needed: it brings pandas

    program = _Program(problem, budget, model_builder.Model())
    program.write()
    if start is not None and solver == "sat":
        program.hint(start)  # HiGHS, by OR-Tools 9.15, crashes on hints
    asked = model_builder.Solver(solver)
    asked.enable_output(False)
    asked.set_time_limit_in_seconds(seconds)
    if solver == "sat":
        asked.set_solver_specific_parameters("num_workers:1 linearization_level:2")
    status = asked.solve(program.model)
    if status in (model_builder.SolveStatus.INFEASIBLE, model_builder.SolveStatus.MODEL_INVALID):
        return Solved(None, math.inf)
    if status not in (model_builder.SolveStatus.OPTIMAL, model_builder.SolveStatus.FEASIBLE):
        return Solved(None, 0)  # OR-Tools gives out no bound without a solution
    return Solved(program.order(asked), max(0, math.ceil(asked.best_objective_bound - CLOSE) * program.dearest))


@dataclass
class _Program:
    """Numbers of the program: `runs` by stage and operator, `there` by stage and storage, `freed` by stage, storage and operator."""

    problem: Problem
    budget: int
    model: Any
    runs: dict[tuple[int, int], Any] = field(default_factory=dict)
    there: dict[tuple[int, int], Any] = field(default_factory=dict)
    freed: dict[tuple[int, int, int], Any] = field(default_factory=dict)

    def write(self) -> None:
        self.table = Table(self.problem)
        self.makers = self.table.makers()
        self.during, self.between = self.table.others()
        self.later = list(self.table.later())
        self.unit = (
            math.gcd(*self.problem.sizes, *self.during, *self.between, *(one.temporary_again for one in self.problem.operators)) or 1
        )
        self.dearest = math.gcd(*(self.problem.operators[at].cost for at in self.problem.choices)) or 1
        for stage in range(len(self.problem.operators)):
            self._numbers(stage)
        for stage in range(len(self.problem.operators)):
            self._possible(stage)
            self._memory(stage)
        self.model.minimize(sum(number * (self.problem.operators[at].cost // self.dearest) for (_, at), number in self.runs.items()))

    def _numbers(self, stage: int) -> None:
        """Only what may be of use in or after the stage runs or is there."""
        _, useful, must = self.later[stage]
        for storage in self.table.chosen:
            if useful & self.table.bit[storage]:
                self.there[stage, storage] = 1 if must & self.table.bit[storage] else self.model.new_bool_var(f"s{stage},{storage}")
        for at in self.problem.choices:
            if at < stage and any(useful & self.table.bit[storage] for storage in self.problem.operators[at].writes_again):
                self.runs[stage, at] = self.model.new_bool_var(f"r{stage},{at}")

    def _running(self, stage: int) -> list[int]:
        return [*(at for at in self.problem.choices if (stage, at) in self.runs), stage]

    def _run(self, stage: int, at: int) -> Any:
        return 1 if at == stage else self.runs.get((stage, at), 0)

    def _made(self, stage: int, at: int) -> list[int]:
        one = self.problem.operators[at]
        return [storage for storage in (one.writes if at == stage else one.writes_again) if storage in self.table.bit]

    def _read(self, stage: int, at: int) -> list[int]:
        one = self.problem.operators[at]
        return [storage for storage in dict.fromkeys(one.reads if at == stage else one.reads_again) if storage in self.table.bit]

    def _possible(self, stage: int) -> None:
        """What is read is there or was made; what is there later was there or was made."""
        for at in self._running(stage):
            for storage in self._read(stage, at):
                maker = self.makers.get(storage, -1)
                self._add(self._run(stage, at) <= self.there.get((stage, storage), 0) + self._run(stage, maker))
        for storage in self.table.chosen:
            if (stage + 1, storage) in self.there:
                made = 1 if storage in self._made(stage, stage) else self._run(stage, self.makers.get(storage, -1))
                self._add(self.there[stage + 1, storage] <= self.there.get((stage, storage), 0) + made)

    def _memory(self, stage: int) -> None:
        """Bytes while each operator runs: those before, what it makes, less what was freed after those before."""
        sizes = self.problem.sizes
        bytes_ = sum(self.there.get((stage, storage), 0) * (sizes[storage] // self.unit) for storage in self.table.chosen)
        running = self._running(stage)
        room = self.budget // self.unit
        for place, at in enumerate(running):
            now = bytes_ + self._run(stage, at) * sum(sizes[storage] // self.unit for storage in self._made(stage, at))
            most = room - (self.during[at] if at == stage else self.between[stage]) // self.unit
            total = self.model.new_int_var(0, max(0, room), f"u{stage},{at}")
            self._add(total == now)
            temporary = 0 if at == stage else self.problem.operators[at].temporary_again // self.unit
            self._add(total + self._run(stage, at) * temporary <= most)
            bytes_ = total - sum(
                self._free(stage, storage, at, running[place + 1 :]) * (sizes[storage] // self.unit) for storage in self._touched(stage, at)
            )

    def _touched(self, stage: int, at: int) -> list[int]:
        return list(dict.fromkeys((*self._read(stage, at), *self._made(stage, at))))

    def _free(self, stage: int, storage: int, at: int, after: Sequence[int]) -> Any:
        """1 where the storage goes after this operator, which ran: nobody reads it later in the stage, nor is it there in the next."""
        if stage in after and storage in self._read(stage, stage):
            return 0
        number = self.freed[stage, storage, at] = self.model.new_bool_var(f"f{stage},{storage},{at}")
        self._add(number <= self._run(stage, at))
        if (stage + 1, storage) in self.there:
            self._add(number + self.there[stage + 1, storage] <= 1)
        for reader in after:
            if storage in self._read(stage, reader):
                self._add(number + self._run(stage, reader) <= 1)
        return number

    def _add(self, constraint: Any) -> None:
        """Some are about known numbers alone: true ones say nothing, and a false one says that there is no schedule."""
        if constraint is False:
            self.model.add(self.model.new_int_var(0, 0, "never") >= 1)
        elif constraint is not True:
            self.model.add(constraint)

    def hint(self, start: Order) -> None:
        """Tells the solver what runs in a schedule."""
        ran = {(stage, at) for stage, turn in enumerate(start) for at, again in turn if again}
        for key, number in self.runs.items():
            self.model.add_hint(number, 1 if key in ran else 0)

    def order(self, solved: Any) -> Order:
        def turns() -> Iterator[tuple[Run, ...]]:
            for stage in range(len(self.problem.operators)):
                again = [at for at in self._running(stage)[:-1] if solved.value(self.runs[stage, at]) > 0.5]
                yield (*((at, True) for at in again), (stage, False))

        return tuple(turns())
