"""Counted cost × a device = predicted time and memory."""
