"""Recomputation planned for a budget: what to forget after the forward pass, and when to compute it again."""
