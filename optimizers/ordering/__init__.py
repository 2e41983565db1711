"""Orders of execution with the lowest peak of memory, without torch but for `from_graph`."""

from optimizers.ordering.problem import is_right, peak_of
from optimizers.ordering.record import Ordering, Problem, Storage
from optimizers.ordering.solve import solve

__all__ = ["Ordering", "Problem", "Storage", "is_right", "peak_of", "solve"]
