"""ML-KEM-768 encapsulation with the randomness as an argument, straight from FIPS 203: slow, for vectors and as an oracle."""

import hashlib

Q = 3329
K = 3
ETA = 2
DU, DV = 10, 4
Poly = list[int]


def _bit_reversed(index: int) -> int:
    return int(f"{index:07b}"[::-1], 2)


ZETAS = [pow(17, _bit_reversed(index), Q) for index in range(128)]
GAMMAS = [pow(17, 2 * _bit_reversed(index) + 1, Q) for index in range(128)]


def encapsulate(public: bytes, message: bytes) -> tuple[bytes, bytes]:
    """(shared secret, ciphertext) for 32 bytes of randomness. Algorithm 17."""
    material = hashlib.sha3_512(message + hashlib.sha3_256(public).digest()).digest()
    return material[:32], _encrypt(public, message, material[32:])


def _encrypt(public: bytes, message: bytes, coins: bytes) -> bytes:
    """Algorithm 14."""
    t = [_decode(public[384 * i : 384 * (i + 1)], 12) for i in range(K)]
    rho = public[384 * K :]
    matrix = [[_sample_ntt(rho + bytes([j, i])) for j in range(K)] for i in range(K)]
    y = [_ntt(_noise(coins, i)) for i in range(K)]
    e1 = [_noise(coins, K + i) for i in range(K)]
    e2 = _noise(coins, 2 * K)
    u = [_add(_inverse_ntt(_dot([matrix[j][i] for j in range(K)], y)), e1[i]) for i in range(K)]
    plain = [((bit * Q) + 1) // 2 for bit in _decode(message, 1)]
    v = _add(_add(_inverse_ntt(_dot(t, y)), e2), plain)
    return b"".join(_encode(_compress(poly, DU), DU) for poly in u) + _encode(_compress(v, DV), DV)


def _dot(left: list[Poly], right: list[Poly]) -> Poly:
    total = [0] * 256
    for a, b in zip(left, right, strict=True):
        for i, gamma in enumerate(GAMMAS):
            a0, a1, b0, b1 = a[2 * i], a[2 * i + 1], b[2 * i], b[2 * i + 1]
            total[2 * i] = (total[2 * i] + a0 * b0 + a1 * b1 * gamma) % Q
            total[2 * i + 1] = (total[2 * i + 1] + a0 * b1 + a1 * b0) % Q
    return total


def _add(left: Poly, right: Poly) -> Poly:
    return [(a + b) % Q for a, b in zip(left, right, strict=True)]


def _ntt(poly: Poly) -> Poly:
    """Algorithm 9."""
    f, at, length = list(poly), 1, 128
    while length >= 2:
        for start in range(0, 256, 2 * length):
            for j in range(start, start + length):
                t = ZETAS[at] * f[j + length] % Q
                f[j + length], f[j] = (f[j] - t) % Q, (f[j] + t) % Q
            at += 1
        length //= 2
    return f


def _inverse_ntt(poly: Poly) -> Poly:
    """Algorithm 10."""
    f, at, length = list(poly), 127, 2
    while length <= 128:
        for start in range(0, 256, 2 * length):
            for j in range(start, start + length):
                t = f[j]
                f[j], f[j + length] = (t + f[j + length]) % Q, ZETAS[at] * (f[j + length] - t) % Q
            at -= 1
        length *= 2
    return [value * 3303 % Q for value in f]


def _sample_ntt(seed: bytes) -> Poly:
    """Algorithm 7."""
    stream = hashlib.shake_128(seed).digest(3 * 1024)
    poly: Poly = []
    for at in range(0, len(stream), 3):
        low = stream[at] + 256 * (stream[at + 1] % 16)
        high = stream[at + 1] // 16 + 16 * stream[at + 2]
        poly.extend(value for value in (low, high) if value < Q)
    return poly[:256]


def _noise(coins: bytes, counter: int) -> Poly:
    """Centred binomial of a PRF output, Algorithm 8."""
    bits = _decode(hashlib.shake_256(coins + bytes([counter])).digest(64 * ETA), 1, 64 * ETA * 8)
    return [(sum(bits[4 * i : 4 * i + 2]) - sum(bits[4 * i + 2 : 4 * i + 4])) % Q for i in range(256)]


def _compress(poly: Poly, bits: int) -> Poly:
    return [((value << bits) + Q // 2) // Q % (1 << bits) for value in poly]


def _decode(data: bytes, bits: int, count: int = 256) -> Poly:
    whole = int.from_bytes(data, "little")
    return [(whole >> (bits * i)) & ((1 << bits) - 1) for i in range(count)]


def _encode(poly: Poly, bits: int) -> bytes:
    whole = sum(value << (bits * i) for i, value in enumerate(poly))
    return whole.to_bytes(32 * bits, "little")
