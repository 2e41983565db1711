"""The fusion planner: which loops may share a kernel, which should, and why the others do not."""
