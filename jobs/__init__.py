"""Who does the work: experiments, the worker process that owns torch, and the store of results."""
