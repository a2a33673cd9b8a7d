"""From a role's settings to a model on SGLang."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from meteor_agents.backends.base_model import base_checkpoint, trains_here
from meteor_agents.backends.http.dialect import Accepts
from meteor_agents.backends.http.openai_compatible import OpenAICompatibleModel
from meteor_agents.backends.http.transport import Access, network_of
from meteor_agents.backends.options import Surroundings, checked_key, headers, noting, options_of, served_name
from meteor_agents.backends.sglang_servers.launch import LaunchedServer
from meteor_agents.backends.sglang_servers.member import Member
from meteor_agents.backends.sglang_servers.model import SGLangModel
from meteor_agents.backends.sglang_servers.options import SGLangOptions
from meteor_agents.backends.sglang_servers.server import Patience, SGLangServer
from meteor_agents.backends.sglang_servers.student import SGLangStudent
from meteor_agents.settings.roles import ModelSettings


def open_sglang(
    role: str, settings: ModelSettings, surroundings: Surroundings, patience: Patience | None = None
) -> SGLangModel:
    """The model of a role whose backend is `sglang`.

    A student whose model is a folder on this machine can be given new weights; every other model is served as it is.
    Nothing is started or asked yet. Raises `SettingsError` for a wrong setting, and for a missing key or program.
    """
    options = options_of(role, settings, SGLangOptions)
    name = served_name(role, settings)
    limits = settings.limits
    note = noting(role, surroundings)
    patience = patience or Patience()
    sent = headers(role, options)
    if key := checked_key(role, options):
        sent["Authorization"] = f"Bearer {os.environ[key].strip()}"
    launched = None
    if options.launch is not None:
        logs = surroundings.logs or Path(tempfile.mkdtemp(prefix="meteor-"))
        launched = LaunchedServer(role, options.launch, logs / f"sglang-{role}.log", note, patience)
    servers = [launched.server] if launched else [SGLangServer(url, sent, patience) for url in options.base_url]

    def chat(server: SGLangServer) -> OpenAICompatibleModel:
        return OpenAICompatibleModel(
            name,
            f"{server.url}/v1",
            access=Access(headers=sent),
            accepts=Accepts(json_schema=options.json_schema),
            network=network_of(limits),
            note=note,
        )

    student = role == "student" and trains_here(settings)
    return (SGLangStudent if student else SGLangModel)(
        name,
        [Member(server, chat(server), limits.timeout_s) for server in servers],
        launched=launched,
        base=base_checkpoint(settings) if student else None,
        free_while_training=options.while_training == "free",
        note=note,
        patience=patience,
    )
