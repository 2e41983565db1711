"""Built-in models, one file per family; each file lists its models in MODELS."""
