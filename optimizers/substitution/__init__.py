"""Substitutions after TASO: rules that are generated, verified and pruned, and a search over them that may go uphill."""
