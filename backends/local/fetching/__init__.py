"""Bringing models to this machine: from the package index, or from the Hugging Face hub."""
