"""Static memory planning: byte offsets in one arena for buffers whose lifetimes are known, in as little memory as possible."""

from optimizers.arena.plan import buffers_of, plan, validate
from optimizers.arena.record import ArenaPlan, Buffer

__all__ = ["ArenaPlan", "Buffer", "buffers_of", "plan", "validate"]
