"""The settings of the backend `sglang`: servers to connect to, or one to launch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
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
    "--config": "flags: a file could set what meteor sets",
}
"""Flags that meteor sets or has to know, and what to use instead."""
KEYS = ("--api-key", "--admin-api-key")
ADDRESSES = {"SGLANG_HOST_IP", "SGLANG_HOST", "SGLANG_PORT", "HOST_IP"}
"""Environment variables by which SGLang would choose another address or port."""


class LaunchOptions(Options):
    """An SGLang server that is started for the run, watched while it lasts, and ended with it."""

    python: Path
    """The interpreter of an environment that has SGLang. Its packages stay apart from ours."""
    flags: tuple[str, ...] = ()
    """Passed on to `python -m sglang.launch_server`: one string, or a list."""
    environment: dict[str, str] = Field(default_factory=dict)
    """More environment variables for the server, for example CUDA_VISIBLE_DEVICES."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """The port to listen on; None: a free one."""
    ready_timeout_s: float = Field(default=900, gt=0)
    """Seconds from its start to its first token."""
    restarts: int = Field(default=5, ge=0)
    """Restarts in a row before the run ends. A server that has run for ten minutes is no longer counted as failing."""

    @field_validator("flags", mode="before")
    @classmethod
    def _words(cls, flags: object) -> object:
        return tuple(shlex.split(flags)) if isinstance(flags, str) else flags

    @field_validator("flags")
    @classmethod
    def _allowed(cls, flags: tuple[str, ...]) -> tuple[str, ...]:
        for flag in flags:
            if not flag.startswith("--"):
                continue
            name = flag.partition("=")[0].replace("_", "-")
            ours = _shortened(name, OURS)
            if ours is not None:
                meant = name if name == ours else f"{name} (read as {ours})"
                raise ValueError(f"{meant} is set by meteor; use {OURS[ours]}")
            if _shortened(name, KEYS) is not None:
                raise ValueError(f"{name} would write a key into this file; a launched server listens on loopback only")
        return flags

    @field_validator("environment")
    @classmethod
    def _no_credentials_or_addresses(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if name.upper() in ADDRESSES:
                raise ValueError(f"{name} would change where the server listens: on this machine only, at launch.port")
            if CREDENTIAL.search(name):
                raise ValueError(f"{name} looks like a credential; export it in the shell, the server inherits it")
        return environment


def _shortened(name: str, flags: Iterable[str]) -> str | None:
    """The flag that `name` is, or begins: SGLang's parser takes `--hos` for `--host`."""
    return next((flag for flag in flags if len(name) > 2 and flag.startswith(name)), None)


class SGLangOptions(EndpointOptions):
    """The settings of `sglang` beyond those of every server: several URLs or a launch, and what happens in training."""

    base_url: tuple[str, ...] = ()
    """The address of one server, of several that serve the same model, or of SGLang's router."""
    launch: LaunchOptions | None = None
    while_training: Literal["keep", "free"] = "keep"
    """free: give the device's memory to the trainer. A server that was started with --enable-memory-saver releases it and
    takes it back; a launched server without that flag is stopped and started again."""

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
