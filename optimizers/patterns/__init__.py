"""Shapes of subgraphs that optimizations look for; one file per shape."""
