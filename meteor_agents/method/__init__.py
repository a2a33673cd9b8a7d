"""The paper in one folder: conversations, agents, prompts, parsers, decoding, and what becomes a training row."""
