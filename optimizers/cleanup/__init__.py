"""Optimizations that remove work without changing any value."""
