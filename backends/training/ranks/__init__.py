"""What runs in the trainer's ranks, processes of their own under DeepSpeed's launcher. Only `worker` is imported elsewhere."""
