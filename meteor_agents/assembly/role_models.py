"""From settings to models: each role's model behind its budget, its limits and its server's circuit breaker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from meteor_agents.abilities import LoadsWeights, Opens, ReportsQueue, innermost
from meteor_agents.backends.base_model import costs_money
from meteor_agents.backends.options import Surroundings
from meteor_agents.backends.registry import open_model
from meteor_agents.calls.budget import Budget, Budgeted, Price
from meteor_agents.calls.recorded import Called, RecordedModel
from meteor_agents.calls.retrying import Retrying
from meteor_agents.calls.server import Server
from meteor_agents.calls.throttled import Throttled
from meteor_agents.errors import SettingsError
from meteor_agents.events import CallRetried, Note, Observer
from meteor_agents.models import ChatModel
from meteor_agents.pipeline.cast import RoleModel, role_models
from meteor_agents.settings.roles import ModelSettings
from meteor_agents.settings.run import Settings
from meteor_agents.store.store import Store


class Servers:
    """The servers of a run by address. Roles with the same address share its concurrency, pauses and circuit breaker."""

    def __init__(self) -> None:
        self.known: dict[str, Server] = {}

    def of(self, settings: ModelSettings, model: ChatModel) -> Server | None:
        """The server that these settings name; None for a model without one."""
        address = _address(settings)
        if address is None:
            return None
        server = self.known.setdefault(address, Server(address, settings.limits.concurrency))
        server.raise_ceiling(settings.limits.concurrency)
        if isinstance(model, ReportsQueue):
            server.report_queue(model)
        return server


@dataclass(slots=True)
class ModelOpener:
    """Opens the models of one run. Without a store nothing is counted or recorded (`meteor check`)."""

    observer: Observer
    store: Store | None = None
    budget: Budget | None = None
    logs: Path | None = None
    """The folder that a launched server's output goes to."""
    servers: Servers = field(default_factory=Servers)

    def open(self, role: str, settings: ModelSettings) -> Retrying:
        """The role's model behind its limits: retry around throttle around budget around the model.

        The budget comes last, so that a call that was waiting when the budget ran out is not sent. Raises `SettingsError`,
        `MissingExtraError`.
        """
        surroundings = Surroundings(self.logs, lambda sentence: self.observer.on_event(Note(sentence)))
        model = open_model(role, settings, surroundings)
        return self.limited(role, settings, model)

    def limited(self, role: str, settings: ModelSettings, model: ChatModel) -> Retrying:
        """`model` behind the role's limits."""
        server = self.servers.of(settings, model)
        if self.budget is not None:
            model = Budgeted(model, self.budget, role, price_of(settings))
        store, observer = self.store, self.observer

        def on_retry(reason: str, wait_s: float) -> None:
            if store is not None:
                store.count_soon(role, "retried")
            observer.on_event(CallRetried(role, reason, wait_s))

        return Retrying(Throttled(model, settings.limits, server), settings.limits, on_retry=on_retry)

    def recorded(self, asked: RoleModel, model: ChatModel) -> RecordedModel:
        """The model as its agent speaks through it: every reply is stored before it is used."""
        assert self.store is not None
        assert self.budget is not None
        bare = innermost(model)
        return RecordedModel(
            model,
            Called(asked.role, asked.settings.identity, price_of(asked.settings), asked.settings.deciding_options),
            store=self.store,
            budget=self.budget,
            observer=self.observer,
            weights=_weights_of(bare) if asked.role == "student" and isinstance(bare, LoadsWeights) else None,
        )


async def make_ready(model: ChatModel) -> None:
    """Start or look up what the model needs before its first call. Raises `MeteorError`."""
    bare = innermost(model)
    if isinstance(bare, Opens):
        await bare.open()


def price_of(settings: ModelSettings) -> Price | None:
    """The price of a model's tokens; None if calls may be billed and the settings give no price."""
    if settings.price is not None:
        return Price(settings.price.input, settings.price.output)
    return None if costs_money(settings) else Price(0, 0)


def check_budget(settings: Settings) -> None:
    """Check that with a budget in dollars every model that may cost money has a price. Raises `SettingsError`."""
    if settings.budget.usd is None:
        return
    for model in role_models(settings).values():
        if price_of(model.settings) is None:
            raise SettingsError(
                f"{model.setting}.price is missing, so budget.usd cannot be kept: give US dollars per million tokens, "
                f"price: {{input: 2.5, output: 10}} (0 and 0 for a server of your own)"
            )


def _weights_of(server: LoadsWeights) -> Callable[[], str]:
    return lambda: server.weights


def _address(settings: ModelSettings) -> str | None:
    """The address of the server, or of the several that share the work; a launched one has none yet."""
    base_url = settings.options.get("base_url")
    if isinstance(base_url, list | tuple):
        return ", ".join(sorted(str(url).rstrip("/") for url in base_url))
    if isinstance(base_url, str):
        return base_url.rstrip("/")
    return f"launched for {settings.identity}" if "launch" in settings.options else None
