"""Work in slices: which dimension of every value is the sliced one, and the graph that computes one slice after the other."""
