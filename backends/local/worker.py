"""The thread that owns a model in this process: it alone touches the model, so the event loop never computes."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import torch

from meteor_agents.backends.local.decoding.loaded_model import LoadedModel
from meteor_agents.backends.local.decoding.request import Request
from meteor_agents.backends.local.freed_memory import give_back_freed_memory
from meteor_agents.backends.local.scheduler import Scheduler, as_model_error
from meteor_agents.backends.local.weights import ModelWeights
from meteor_agents.errors import ModelError

IDLE_S = 1.0
"""After this long without a request, memory that decoding has freed is given back to the system."""
GATHER_S = 0.004
"""How long the first request waits for others to join it."""


@dataclass(slots=True, frozen=True, eq=False)
class NewWeights:
    """Serve the weights of `folder`, as `version`, once every request before this one is answered."""

    folder: Path
    version: str
    done: Future[None]


@dataclass(slots=True, frozen=True, eq=False)
class FreeMemory:
    """Hold no memory for weights until the next request."""

    done: Future[None]


class Stop:
    """Answer what was asked before, then end. Nothing is read after it."""


Order = NewWeights | FreeMemory | Stop


class Worker:
    """A thread that answers requests and obeys orders, in the order in which they arrived.

    Once it has stopped, it holds neither the model nor its memory.
    """

    def __init__(self, loaded: LoadedModel, name: str, version: str, max_batch: int) -> None:
        self.loaded: LoadedModel | None = loaded
        self.weights = ModelWeights(loaded.module, version, loaded.folder)
        self._name = name
        self._scheduler: Scheduler | None = Scheduler(loaded, self.weights, name, max_batch, self._take_arrivals)
        self._inbox: SimpleQueue[Request | Order] = SimpleQueue()
        self._order: Order | None = None
        """To be done once no request waits. What arrived after it stays in the inbox until then."""
        self._stopped = False
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name=f"meteor {name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the thread has ended, which a `Stop` makes it do."""
        self._thread.join()

    def put(self, item: Request | Order) -> None:
        """Hand over a request or an order. Raises `ModelError` after a `Stop`."""
        with self._gate:
            if self._stopped and not isinstance(item, Stop):
                raise ModelError(f"{self._name} is closed")
            self._stopped = self._stopped or isinstance(item, Stop)
            self._inbox.put(item)

    def _serve(self) -> None:
        scheduler = self._scheduler
        assert scheduler is not None, "the thread is started once"
        with torch.inference_mode():
            while not isinstance(self._order, Stop) or scheduler.waiting:
                if not scheduler.waiting and self._order is None:
                    self._take(self._first_arrival())
                    time.sleep(GATHER_S)
                self._take_arrivals()
                if scheduler.waiting:
                    scheduler.answer_some()
                elif isinstance(self._order, NewWeights | FreeMemory):
                    self._obey(self._order, scheduler)
                    self._order = None
        del scheduler
        self._scheduler = self.loaded = None
        self.weights.forget()
        gc.collect()
        _give_back()

    def _first_arrival(self) -> Request | Order:
        try:
            return self._inbox.get(timeout=IDLE_S)
        except Empty:
            _give_back()
            return self._inbox.get()

    def _take_arrivals(self) -> None:
        """Take what has arrived, up to the next order."""
        while self._order is None:
            try:
                self._take(self._inbox.get_nowait())
            except Empty:
                return

    def _take(self, item: Request | Order) -> None:
        if not isinstance(item, Request):
            self._order = item
        elif item.reply.set_running_or_notify_cancel() and self._scheduler is not None:
            self._scheduler.add(item)

    def _obey(self, order: NewWeights | FreeMemory, scheduler: Scheduler) -> None:
        if not order.done.set_running_or_notify_cancel():
            return
        try:
            if isinstance(order, NewWeights):
                self.weights.replace(order.folder, order.version)
            else:
                scheduler.forget_contrast()
                self.weights.free_memory()
                _give_back()
        except Exception as error:
            order.done.set_exception(as_model_error(error, self._name))
        else:
            order.done.set_result(None)


def _give_back() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    give_back_freed_memory()
