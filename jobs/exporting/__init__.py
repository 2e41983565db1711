"""A session as files that live without fxscope: Python, a notebook, tables."""
