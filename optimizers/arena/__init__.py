"""Static memory planning: byte offsets in one arena for buffers whose lifetimes are known, in as little memory as possible."""

from optimizers.arena.plan import buffers_of, greedy_plans, plan, validate
from optimizers.arena.record import ArenaPlan, Buffer, GreedyPlan

__all__ = ["ArenaPlan", "Buffer", "GreedyPlan", "buffers_of", "greedy_plans", "plan", "validate"]
