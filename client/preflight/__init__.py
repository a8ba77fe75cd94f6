"""Is this hospital ready? One line for each thing that is not, with what to do about it; no patient's value is read out or sent.

`findings` is the list of all that can be found and how probes are run; `route`, `tls` and `talk` are the way to the hub, step by
step; `network`, `folders`, `machine` and `site` hold the probes; `parts` says which container asks which of them.
"""
