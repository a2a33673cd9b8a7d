"""The settings of the backend `sglang`: servers to connect to, or one to launch."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from meteor_agents.backends.options import EndpointOptions, Options

CREDENTIAL = re.compile(r"token(?!iz)|secret|password|credential|(?<![a-z])key(?![a-z])", re.IGNORECASE)
OURS = {
    "--model-path": "model",
    "--model": "model",
    "--host": "nothing: a launched server listens on this machine only",
    "--port": "launch.port",
    "--weight-version": "nothing: each checkpoint has its own",
}
"""Flags that we set, and the setting to use instead."""


class LaunchOptions(Options):
    """An SGLang server that is started for the run, watched, and ended with it."""

    python: Path
    """The interpreter of an environment that has SGLang. Its packages stay apart from ours."""
    flags: tuple[str, ...] = ()
    """Handed to `python -m sglang.launch_server` as they are: one string, or a list."""
    environment: dict[str, str] = Field(default_factory=dict)
    """More environment variables for the server, for example CUDA_VISIBLE_DEVICES."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """A free one when absent."""
    ready_timeout_s: float = Field(default=900, gt=0)
    """From its start to its first token."""
    restarts: int = Field(default=5, ge=0)
    """In a row; a server that has run for ten minutes starts counting anew."""

    @field_validator("flags", mode="before")
    @classmethod
    def _words(cls, flags: object) -> object:
        return tuple(shlex.split(flags)) if isinstance(flags, str) else flags

    @field_validator("flags")
    @classmethod
    def _allowed(cls, flags: tuple[str, ...]) -> tuple[str, ...]:
        for flag in flags:
            name = flag.partition("=")[0].replace("_", "-")
            if name in OURS:
                raise ValueError(f"{name} is set by meteor; use {OURS[name]}")
            if name in ("--api-key", "--admin-api-key"):
                raise ValueError(f"{name} would write a key into this file; a launched server listens on loopback only")
        return flags

    @field_validator("environment")
    @classmethod
    def _no_credentials(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if CREDENTIAL.search(name):
                raise ValueError(f"{name} looks like a credential; export it in the shell, the server inherits it")
        return environment


class SGLangOptions(EndpointOptions):
    """What `sglang` has beyond every server: many URLs or a launch, and what it does while the student is trained."""

    base_url: tuple[str, ...] = ()
    """One server, or several that serve the same model; or SGLang's router."""
    launch: LaunchOptions | None = None
    while_training: Literal["keep", "free"] = "keep"
    """free: give the device's memory to the trainer. A server that was started with --enable-memory-saver releases and
    resumes it; a launched one without is stopped and started again."""

    @field_validator("base_url", mode="before")
    @classmethod
    def _one_or_many(cls, base_url: object) -> object:
        return (base_url,) if isinstance(base_url, str) else base_url

    @model_validator(mode="after")
    def _connect_or_launch(self) -> SGLangOptions:
        if bool(self.base_url) == (self.launch is not None):
            raise ValueError("name either base_url (servers that run already) or launch (one to start)")
        if len(set(self.base_url)) != len(self.base_url):
            raise ValueError("base_url names a server twice")
        return self
