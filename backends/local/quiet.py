"""What transformers and the libraries below it print for their developers is kept out of a user's terminal."""

from __future__ import annotations

import warnings

LIBRARIES = ("accelerate", "deepspeed", "peft", "safetensors", "torch", "transformers")
"""Libraries whose warnings a user of this project can do nothing about."""


def silence_libraries() -> None:
    """Hide progress bars, hints in the log and Python warnings of `LIBRARIES`; warnings of other code still show.

    The filter for warnings comes last, so that one that is set already, such as `python -W error`, wins.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=rf"({'|'.join(LIBRARIES)})(\.|$)", append=True)
