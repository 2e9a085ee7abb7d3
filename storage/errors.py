"""What can go wrong with storage, ours told apart from the disk's.

StorageError
├── Unavailable        the disk did not confirm the write; nothing of it counts; try again
│   └── Overloaded     the writer queue is full; nothing was queued; try again later
├── Fault              the schema refused a statement: a bug of ours, not the disk
├── RefTaken           a message's ref was used before: the store looks and judges again
├── NotRead            a change asks for what was not read: the store reads it and judges again
└── CannotOpen         this process cannot use the database; says why and what to do
"""

from __future__ import annotations

from storage.records import Key


class StorageError(Exception):
    """Base of everything that storage raises on purpose."""


class Unavailable(StorageError):
    """The commit was not confirmed. The same change may be tried again."""


class Overloaded(Unavailable):
    """The writer queue is at its bound (`Store.QUEUE` changes)."""


class Fault(StorageError):
    """A statement was refused by the schema: a bug of ours. Nothing of its batch was written."""


class CannotOpen(StorageError):
    """The database cannot be opened. `problem` is one clear line for the operator."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class RefTaken(StorageError):
    """Nothing was written: a message came under a ref that its sender has used before."""


class NotRead(StorageError):
    """Nothing was written: changes need the unacknowledged messages of the conversations `keys`."""

    def __init__(self, *keys: Key) -> None:
        super().__init__(f"what is unacknowledged was not read of {len(keys)}")
        self.keys = keys
