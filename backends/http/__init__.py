"""Chat models behind an HTTP interface: OpenAI's and Anthropic's."""
