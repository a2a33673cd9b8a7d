"""What runs in the trainer's ranks, which are processes under DeepSpeed's launcher. Only `worker` is imported elsewhere."""
