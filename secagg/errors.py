"""Every failure of this package is a `SecaggError`: a code of the protocol, the sites it names, one sentence without secrets."""

CODES = (
    "EPOCH",  # another epoch, an old one, or none: the coordinator opens the next epoch
    "STRANGER",  # a site that the roster or the plan does not know
    "SIGNATURE",  # a signature that does not match its site
    "ENCODING",  # bytes that are not exactly one message of this protocol
    "PEERS",  # a list of sites that is not the one it must be
    "OWN_KEY",  # this site's own keys are missing from the list, or altered
    "TOO_FEW",  # fewer sites than the roster's threshold demands
    "ROUND",  # a round that is past, beyond the plan, or about something else
    "OWN_UPLOAD",  # this site is listed with an upload that it did not make
    "VOTED",  # this site voted for another view of this round
    "RANGE",  # a value that does not fit the ring
    "NOT_OPENABLE",  # too few ballots, or shares that do not match their commitments
    "SPOILED",  # the opened sum cannot be a sum of encoded updates
)


class SecaggError(Exception):
    """Base of all errors that leave `secagg`; `code` is one of `CODES`, `sites` the ids it names."""

    def __init__(self, code: str, sentence: str, sites: tuple[str, ...] = ()) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence
        self.sites = sites
