"""Random models, and what must hold when they are optimized.

`models.random_model(seed)` writes a model as a short Python program; `trial` captures it, applies optimizations and lists every promise
that one of them broke; `minimize` shortens a program that shows a broken promise.

nnsmith, which writes random models too, was tried first: torch.export cannot trace the modules it makes (they branch on values), and it
writes no training, no random operators, no in-place ones and no aliases.
"""
