"""What only a GPU can show; every file of this folder is skipped where there is none.

    python -m pytest tests/gpu --confcutdir=tests/gpu -n 8

needs torch, msgspec, OR-Tools and transformers: nothing of the web app.
"""
