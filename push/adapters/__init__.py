"""From a ring to one tenant's agreed HTTP request, and from the response to a verdict.

Each adapter is a file of its own and decides one form (docs/adapters.md). Leaves the signature to
`push.signing`, credentials to `push.credentials`, the wire to `push.caller`, and what is in the
ring to the claim. Pure and deterministic: under unchanged settings the same ring gives the same
bytes on every attempt. What a further adapter needs, ours or yours, can be imported from here.
"""

from push.adapters.form import Adapter, Make, OptionError, Request, Unwritable
from push.adapters.named import AdapterBroken, UnknownAdapterError, adapter_named, names
from push.ring import RingKind, Verdict, VerdictKind
from push.verdicts import Answer, Failure, judge, verdict_of

__all__ = [
    "Adapter",
    "AdapterBroken",
    "Answer",
    "Failure",
    "Make",
    "OptionError",
    "Request",
    "RingKind",
    "UnknownAdapterError",
    "Unwritable",
    "Verdict",
    "VerdictKind",
    "adapter_named",
    "judge",
    "names",
    "verdict_of",
]
