"""The hospital's side: the guard (data, keys, policy, ledger, trainer; no network) and the gateway (network; no data, no keys)."""

import os

# The same bits for a patient in every slot: without it MKL takes, on some processors, another order of sums with another alignment
# of memory, and engines that rely on it are refused (`client.engines.checks`). Read at MKL's first call, so it is set before any.
os.environ.setdefault("MKL_CBWR", "AUTO")
