"""The hospital's side: the guard (data, keys, policy, ledger, trainer; no network) and the gateway (network; no data, no keys)."""
