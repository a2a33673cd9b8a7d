"""How many files, and so connections, this process may have open. Running out of them is not a server's fault."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Collection
from contextlib import suppress

from meteor_agents.calls.server import Server
from meteor_agents.errors import ModelError, UnreachableError

RESERVED = 100
"""Files that a run has open besides its connections: store, log, templates, pipes to servers and trainers."""
ENOUGH = 65_536
"""No run needs more; some systems say unlimited and refuse to set it."""
_OUT = tuple(map(os.strerror, (errno.EMFILE, errno.ENFILE)))


def raise_open_files() -> int:
    """Raise the soft limit on open files as far as the system allows. Returns the limit, at most `ENOUGH`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return _soft_limit()


def fit_concurrency(servers: Collection[Server], files: int) -> str | None:
    """Lower the ceilings of `servers` so that their connections fit into `files`. Returns what to say; None if they fit.

    Each role keeps connections of its own open, whether or not they are in use.
    """
    remote = [server for server in servers if server.adaptive]
    wanted = sum(server.ceiling * max(1, server.roles) for server in remote)
    fits = max(len(remote), files - RESERVED)
    if wanted <= fits:
        return None
    for server in remote:
        server.lower_ceiling(max(1, server.ceiling * fits // wanted))
    return (
        f"this system lets a process open {files:,} files (ulimit -Hn), too few for the {wanted:,} connections that the "
        f"settings allow: at most {sum(server.ceiling for server in remote):,} calls are made at once"
    )


def out_of_files(error: ModelError) -> str | None:
    """What to say of an error that came of having no file left to open; None for every other error.

    Told by the system's words for it: a backend does not pass on the library's error, which holds the request and its key.
    """
    if isinstance(error, UnreachableError) and any(words in str(error) for words in _OUT):
        return f"this process may open no more than {_soft_limit():,} files (ulimit -n): lower limits.concurrency"
    return None


def _soft_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else min(soft, ENOUGH)
