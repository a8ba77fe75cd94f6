"""More than half of the honest sites stand behind every opened sum: the arithmetic of n sites of which c may collude."""

from consortium.plan import RING_BITS
from secagg.errors import SecaggError

SMALLEST_EPOCH = 3
MAX_SITES = {16: 255, 32: 2**16 - 1}  # by ring; keeps L at least 2^7 and 2^15. Consortia have 3 to 30 sites
EPOCH_LIFE_S = 24 * 3600.0


def threshold(n: int, c: int) -> int:
    """t = (n+c)//2 + 1 sites must answer, so that 2t > n+c: two sets of t always share an honest site."""
    return (n + c) // 2 + 1


def tolerated(n: int, c: int) -> int:
    """d = n-t sites may be gone before the upload, and as many before the vote."""
    return n - threshold(n, c)


def honest_in_sum(n: int, c: int) -> int:
    """t-c, the fewest honest sites in a sum that opens: more than half of the n-c honest ones."""
    return threshold(n, c) - c


def weakest_epoch(n: int, c: int, minimum_cohort: int) -> int:
    """The size, of all epochs that the coordinator may choose among n participants, whose sums hold the fewest honest sites."""
    return min(range(min(smallest_epoch(c, minimum_cohort), n), n + 1), key=lambda size: honest_in_sum(size, c))


def limits(n: int, c: int, minimum_cohort: int) -> tuple[str, ...]:
    """What a run of n participants does not withstand, in sentences for whoever plans or approves it.

    The coordinator chooses who is in an epoch, so they are about the weakest epoch that roster and policy let it choose.
    """
    size = weakest_epoch(n, c, minimum_cohort)
    honest = honest_in_sum(size, c)
    said = [f"the coordinator may run rounds with {size} of the {n} sites: a larger minimum cohort prevents it"] if size < n else []
    if not tolerated(size, c):
        said.append(f"{size} sites with {c} colluding tolerate no dropout: a single site that is gone costs the round")
    if c == 0:
        said.append("no colluding site is tolerated: one that works with the coordinator is outside every promise")
    if honest == 2:  # the fewest that masks can hide among each other
        said.append("a sum may hold only two honest sites: whoever knows one of the two updates reads the other")
    return tuple(said)


def smallest_epoch(c: int, minimum_cohort: int) -> int:
    """max(3, c+2, n_min): below it an epoch is refused."""
    return max(SMALLEST_EPOCH, c + 2, minimum_cohort)


def ring_scale(n: int, ring_bits: int = 32) -> int:
    """L = 2^(ring_bits - 1 - bit_length(n)): a body value of one site lies in [-L, L], and n L < half the ring never wraps."""
    most = MAX_SITES[ring_bits] if ring_bits in RING_BITS else 0
    if not 1 <= n <= most:
        raise SecaggError("RANGE", f"{n} sites in a ring of {ring_bits} bits, expected 1 to {most}: no scale for them")
    return int(2 ** (ring_bits - 1 - n.bit_length()))
