"""DeepSpeed presets, by the name that `training.config` gives: zero1, zero2, zero3, zero2-offload, zero3-offload.

They say how DeepSpeed divides optimizer state, gradients and weights over the ranks, and nothing else. Batch sizes, number
format, clipping and learning rate come from the training settings. The published METEOR runs are `config: zero2` with
`dtype: float16`.
"""
