"""All clients, and the tests beside them, share compiled kernels, so that each is compiled once. Said here, before anything loads torch: it takes
another folder when it is asked and none is named."""

import os
import tempfile

KERNELS = os.environ.setdefault("FXSCOPE_KERNELS", f"{tempfile.gettempdir()}/fxscope-test-kernels")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", KERNELS)
