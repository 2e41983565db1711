"""Optimizations that lower peak memory."""
