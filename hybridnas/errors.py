"""What can go wrong, as one hierarchy.

* HybridNasError
  * UserError              the user's input; commands print the sentence and exit with 2
    - ArchitectureError    a description that no network can have
    - SpaceError           a search-space file, with its line and key
    - DataError            images or labels
    - ConfigError          a flag, or flags that do not go together
    - ZooError             a name that the zoo does not have, or weights that cannot be had or do not fit
    - RunError             a run folder that cannot be read or continued
    - TargetError          a device that cannot be reached, or stopped answering; nothing that finished is lost
    - DiskFullError        no room for a file; nothing that finished is lost
    - WorkerError          processes that train or draw cannot be had; nothing that finished is lost
  * BudgetError            no design holds the budget; commands exit with 3
  * CannotRun              one network, or part of one, that a runtime cannot run; its trial is marked failed
  * TrainingFailed         one training run ended without an accuracy; its trial is marked failed
  * NotDrawn               a figure that a run gives nothing for; the message is the reason
  * OutOfTime              one training run would not end before the deadline; its trial is dropped
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class HybridNasError(Exception):
    """Base of every error that this package raises on purpose."""


class UserError(HybridNasError):
    """A mistake in the input, said in one sentence: what, where, and what is allowed."""


class ArchitectureError(UserError):
    """A description that no network can have."""


class SpaceError(UserError):
    """A search-space file that cannot be searched."""


class DataError(UserError):
    """Images or labels that cannot be trained on."""


class ConfigError(UserError):
    """A setting out of range, or settings that do not go together."""


class ZooError(UserError):
    """A name that the zoo does not have, or weights that cannot be had or do not fit."""


class RunError(UserError):
    """A run folder that cannot be read or continued."""


class TargetError(UserError):
    """A device that cannot be reached, or that stopped answering."""


class DiskFullError(UserError):
    """No room is left for a file: make some, then go on."""


class WorkerError(UserError):
    """Processes that are to train, here or elsewhere, cannot be started or reached."""


class BudgetError(HybridNasError):
    """No design of the space holds the budget."""


class CannotRun(HybridNasError):  # noqa: N818
    """A network, or a part of one, that a runtime cannot run on a device; the message is the reason."""


class TrainingFailed(HybridNasError):  # noqa: N818 (the domain's word for it)
    """A training run that diverged or ran out of memory; the message is the reason."""


class NotDrawn(HybridNasError):  # noqa: N818
    """A figure that a run gives nothing for; the message is the reason."""


class OutOfTime(HybridNasError):  # noqa: N818
    """A training run that would not end before its deadline."""


def first_clause(error: BaseException, limit: int = 120) -> str:
    """What another library's error says first, in one line, to stand inside a sentence of ours."""
    text = " ".join(str(error).split())
    clause = text.partition(". ")[0].rstrip(".")
    return clause if len(clause) <= limit else clause[:limit].rsplit(" ", 1)[0] + " ..."


def first_invalid(error: ValidationError) -> str:
    """What pydantic says first, in one line: where, and what is wrong there."""
    first = error.errors()[0]
    where = " ".join(".".join(map(str, first["loc"])).split())
    return f"{where}: {first['msg']}" if where else first["msg"]
