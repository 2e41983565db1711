"""Twelve models with five steps each, small: what exported files are tried on."""

from __future__ import annotations

SESSIONS = (
    "model=zoo/mlp&mode=training&batch=4&depth=2&width=16&update=adamw"
    "&pipeline=remove-no-ops,merge-common-subexpressions,cancel-views,recompute-light-work,update-in-place",
    "model=zoo/attention&mode=training&seq=16&width=32&heads=2"
    "&pipeline=fold-constants,simplify-arithmetic,fuse-attention,fuse-matmul-epilogue,run-in-place",
    "model=zoo/gpt2&mode=training&layers=2&width=32&heads=2&vocab=64&seq=8&dropout=0.1"
    "&pipeline=fuse-attention,accumulate-embedding-gradient,recompute-log-softmax,recompute-light-work,run-in-place",
    "model=zoo/llama&mode=training&layers=1&width=32&heads=2&kv_heads=2&vocab=64&seq=8"
    "&pipeline=fuse-rms-norm,remove-no-ops,simplify-arithmetic,fuse-attention,recompute-light-work",
    "model=zoo/bert&mode=training&layers=1&width=32&heads=2&vocab=64&seq=8&dropout=0.1"
    "&pipeline=fuse-attention,canonicalize,fuse-matmul-epilogue,recompute-by-knapsack,run-in-place",
    "model=zoo/vit&mode=inference&layers=1&width=32&heads=2&image=32"
    "&pipeline=merge-parallel-matmuls,fuse-attention,fuse-matmul-epilogue,cancel-views,run-in-place",
    "model=zoo/resnet18&mode=inference&batch=2&image=32&classes=10"
    "&pipeline=fold-batch-norm,enlarge-convolution,convolve-side-by-side,canonicalize,run-in-place",
    "model=zoo/unet&mode=training&image=16&width=8&depth=2"
    "&pipeline=remove-no-ops,reassociate-constants,save-in-bfloat16,recompute-activations,run-in-place",
    "model=zoo/lstm&mode=training&batch=2&seq=3&width=8"
    "&pipeline=merge-common-subexpressions,merge-parallel-matmuls,simplify-arithmetic,save-in-bfloat16,free-early",
    "model=zoo/moe&mode=training&seq=8&width=16&experts=2&pipeline=group-experts,canonicalize,compress-activations,fuse-loops,run-in-place",
    "model=zoo/branches&mode=inference&channels=4"
    "&pipeline=enlarge-convolution,merge-parallel-convolutions,fuse-loops,canonicalize,run-in-place",
    "model=zoo/chain&mode=training&batch=8&depth=3&width=16"
    "&pipeline=remove-no-ops,cancel-views,recompute-activations,fuse-loops,run-in-place",
)

OWN_OPERATORS = (
    "chunk-linear-cross-entropy", "fuse-attention", "fuse-rms-norm", "offload-activations", "generate-matmul-kernel", "chunk-attention",
    "accumulate-gradients",
)  # fmt: skip
