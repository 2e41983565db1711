"""A graph as plain Python: functions that need nothing but torch."""
