"""The DeepSpeed trainer, as the process that asks for training sees it: starting the ranks, jobs, checkpoints."""
