"""DeepSpeed presets, by the name that `training.config` gives: zero1, zero2, zero3, zero2-offload, zero3-offload.

They hold what is DeepSpeed's own business: how optimizer state, gradients and weights are divided. Batch sizes, number
format, clipping and learning rate come from the training settings. The published METEOR runs are `config: zero2` with
`dtype: float16`.
"""
