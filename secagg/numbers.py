"""More than half of the honest sites stand behind every opened sum: the arithmetic of n sites of which c may collude."""

from secagg.errors import SecaggError

SMALLEST_EPOCH = 3
MAX_SITES = 2**16 - 1  # keeps L of the ring at least 2^15; consortia have 3 to 30 sites
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


def smallest_epoch(c: int, minimum_cohort: int) -> int:
    """max(3, c+2, n_min): below it an epoch is refused."""
    return max(SMALLEST_EPOCH, c + 2, minimum_cohort)


def ring_scale(n: int) -> int:
    """L = 2^(31 - bit_length(n)): a body value of one site lies in [-L, L], and n L < 2^31 never wraps."""
    if not 1 <= n <= MAX_SITES:
        raise SecaggError("RANGE", f"{n} sites, expected 1 to {MAX_SITES}: no ring scale for them")
    return int(2 ** (31 - n.bit_length()))
