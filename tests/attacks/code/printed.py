print(repr(TOLD), flush=True)
