"""The quickstart's prompt templates."""
