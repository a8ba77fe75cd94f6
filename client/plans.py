"""What was asked of this site and what its steward decided: one file per plan and one per decision, both signed.

The guard and the steward's commands share these files; a decision takes effect at the next request, also a withdrawal.
"""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from client.errors import ConfigError, Refused
from client.files import write_atomic, write_first
from consortium.approval import Approval, sign_approval, verify_approval
from consortium.documents import Signed
from consortium.errors import ConsortiumError, SignatureError
from consortium.identity import SigningKey
from consortium.plan import Plan

DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class KnownPlan:
    """A plan that reached this site, verified at that time."""

    signed: Signed
    plan: Plan

    @property
    def digest(self) -> bytes:
        return self.signed.digest


class PlanStore:
    """The folder `plans/`: `<digest>.plan` and `<digest>.approval`."""

    def __init__(self, folder: Path, site: str, public: bytes, retired: tuple[bytes, ...] = ()) -> None:
        """`retired`: keys that the site signed with before. What they decided about a plan stays decided; a plan is of one roster,
        so it lets nothing train under a later one."""
        self._folder = folder
        self._site = site
        self._keys = (public, *retired)
        self._cache: dict[bytes, tuple[bytes, Approval]] = {}

    def add(self, signed: Signed) -> None:
        """Keep a verified plan; adding it again changes nothing."""
        path = self._path(signed.digest, "plan")
        if not path.exists():
            write_atomic(path, signed.encode())

    def get(self, digest: bytes) -> KnownPlan | None:
        try:
            signed = Signed.decode(self._path(digest, "plan").read_bytes(), "plan")
        except FileNotFoundError:
            return None
        return KnownPlan(signed, signed.document(Plan))

    def find(self, start: str) -> KnownPlan:
        """The plan whose run id is `start` or whose digest begins so. Raises `ConfigError` for none or several."""
        found = [known for known in self.all() if known.plan.run_id == start or known.digest.hex().startswith(start)]
        if len(found) != 1:
            raise ConfigError(f"{len(found)} plans match {start!r}: name the run id or the first digits of the digest (plans list)")
        return found[0]

    def all(self) -> tuple[KnownPlan, ...]:
        digests = sorted(path.stem for path in self._folder.glob("*.plan") if DIGEST.fullmatch(path.stem))
        known = (self.get(bytes.fromhex(digest)) for digest in digests)
        return tuple(sorted((plan for plan in known if plan), key=lambda item: item.plan.created))

    def decide(self, approval: Approval, key: SigningKey) -> None:
        """Put a decision in force; it replaces an earlier one."""
        write_atomic(self._path(approval.plan_digest, "approval"), sign_approval(approval, key).encode())

    def decide_first(self, approval: Approval, key: SigningKey) -> Approval | None:
        """Put a decision in force unless there is one: policy never overrules a steward. Returns the one in force."""
        write_first(self._path(approval.plan_digest, "approval"), sign_approval(approval, key).encode())
        return self.decision(approval.plan_digest)

    def decision(self, digest: bytes) -> Approval | None:
        """The decision in force, None if there is none yet.

        Raises `Refused` for a file that does not verify: it may have been a refusal, so it must not count as undecided.
        """
        path = self._path(digest, "approval")
        try:
            data = path.read_bytes()
            if (cached := self._cache.get(digest)) and cached[0] == data:
                return cached[1]
            approval = self._verified(Signed.decode(data, "approval"))
        except FileNotFoundError:
            return None
        except (OSError, ConsortiumError) as error:
            raise Refused("NOT_APPROVED", f"the decision in {path} cannot be used ({error}): approve or refuse again") from error
        if approval.plan_digest != digest:
            raise Refused("NOT_APPROVED", f"the decision in {path} is about another plan: approve or refuse again")
        self._cache[digest] = (data, approval)
        return approval

    def _verified(self, signed: Signed) -> Approval:
        """Raises the present key's `ConsortiumError` where none of this site's keys signed it."""
        now, *before = self._keys
        for public in before:
            with contextlib.suppress(SignatureError):
                return verify_approval(signed, self._site, public)
        return verify_approval(signed, self._site, now)

    def _path(self, digest: bytes, suffix: str) -> Path:
        return self._folder / f"{digest.hex()}.{suffix}"
