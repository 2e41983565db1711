"""Searches over many rewrites, beyond what each gains alone."""
