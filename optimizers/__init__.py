"""What can be done to a graph: optimizations, the one runner, and the verdict of a step."""
