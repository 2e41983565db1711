"""Optimizations that replace several kernels by one."""
