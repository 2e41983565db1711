"""Exact rewrites that trade operators for cheaper ones: merged, folded and reordered matmuls and convolutions."""
