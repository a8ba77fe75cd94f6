"""What sites chose to publish about their own ledgers, put beside the run it names: checked, on record, and never computed with.

A statement is taken when the site signed it with the key on the roster, for this very plan and its delta, and when it does not
contradict what the same site published before: its ledger only grows.
"""

from collections.abc import Iterable

from consortium.documents import Signed
from consortium.plan import Plan
from consortium.roster import Roster
from consortium.statement import KIND, EpsilonStatement, verify_statement
from server.errors import JournalBusyError, ServerError
from server.folder import RunFolder
from server.journal import EpsilonPublished, Journal
from server.state import RunState, read_state


def checked(signed: Signed, plan: Plan, roster: Roster) -> EpsilonStatement:
    """The statement, verified. Raises `ServerError` or a `ConsortiumError` saying what does not fit."""
    site = signed.expect(KIND).document(EpsilonStatement).site
    if site not in plan.sites:
        raise ServerError(f"{site} is not a site of run {plan.run_id}: is this the statement for another run?")
    statement = verify_statement(signed, site, roster.member(site).identity_key)
    if statement.plan_digest != plan.digest:
        raise ServerError(f"the statement of {site} is about plan {statement.plan_digest.hex()[:16]}, not {plan.digest.hex()[:16]}")
    if statement.delta != plan.privacy.delta:
        raise ServerError(f"the statement of {site} is at delta {statement.delta:g}, the plan's is {plan.privacy.delta:g}")
    return statement


def publish(folder: RunFolder, statements: Iterable[EpsilonStatement]) -> tuple[str, ...]:
    """Append what is new to the run's journal; the sites it is of. All or, if one contradicts what is on record, nothing."""
    statements = tuple(statements)
    if len({statement.site for statement in statements}) < len(statements):
        raise ServerError("two statements are of one site: give the newer one alone")
    try:
        with Journal(folder.events) as journal:
            state = read_state(folder.path)
            new = [statement for statement in statements if _is_new(statement, state)]
            for statement in new:
                journal.append(_event(statement, state))
    except JournalBusyError as error:
        raise ServerError(
            f"run {folder.plan().run_id} is being driven, and only its coordinator writes its journal: publish when it has ended"
        ) from error
    return tuple(statement.site for statement in new)


def _is_new(statement: EpsilonStatement, state: RunState) -> bool:
    """False for what was published before. Raises `ServerError` for a contradiction."""
    if state.phase == "new":
        raise ServerError("the run has not begun: there is nothing to publish beside")
    known = state.published.get(statement.site)
    if known is None:
        return True
    if statement.entries < known.entries:
        raise ServerError(
            f"{statement.site} published entry {known.entries - 1} of its ledger before, this statement ends at entry "
            f"{statement.entries - 1}: take the newer one"
        )
    if statement.entries == known.entries and statement.ledger_head != known.ledger_head:
        raise ServerError(
            f"{statement.site} published another ledger of {known.entries} entries before: two histories, ask its auditor"
        )
    return statement.entries > known.entries


def _event(statement: EpsilonStatement, state: RunState) -> EpsilonPublished:
    return EpsilonPublished(
        statement.site,
        state.last_done,
        statement.delta,
        statement.epsilon_exposed,
        statement.entries,
        statement.ledger_head,
        statement.made,
    )
