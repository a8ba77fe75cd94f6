"""No script of the specification's table 4.10 and no defect of its section 2 can go missing, and none can leave a lane unseen."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = (
    *("split_views", "mix_views", "double_vote"),
    *("lone_ballot", "reflected_release"),
    *("shrunk_peers", "duplicate_peers", "stranger", "key_substitution", "two_lists", "stale_keys", "kem_swap"),
    *("other_model", "phantom_member", "small_view", "own_entry", "equivocating_site"),
    *("replay_upload", "replay_ballot", "past_round", "other_epoch", "repeat_request", "vote_race"),
    *("reflected_share", "swapped_share"),
    "withheld_upload",
    *("bad_shares", "bad_answer", "bad_release", "garbage_mask"),
    *("restart", "restored_disk", "memory_clone"),
    "header_difference",
    "relay_bypass",
)
DEFECTS = tuple(f"f{number:02d}" for number in range(1, 16))
IN_PROCESS_ONLY = {
    "memory_clone": "copies the memory of honest guards, which no line can reach",
    "f02": "the moves of shrunk_peers and small_view, which run in both lanes",
    "f03": "the moves of phantom_member and double_vote, which run in both lanes",
    "f05": "the move of key_substitution, which runs in both lanes",
    "f07": "the moves of repeat_request and past_round, which run in both lanes",
    "f09": "the moves of small_view and split_views, which run in both lanes",
    "f10": "of the derivations themselves; replay_upload and swapped_share move between rounds in both lanes",
    "f12": "of the guard's decoders: nothing between reads what is in a request",
    "f11": "of the keystream itself",
}


def written() -> Iterator[ast.FunctionDef]:
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield node


def of(script: str) -> list[ast.FunctionDef]:
    return [test for test in written() if test.name.startswith(f"test_{script}_")]


@pytest.mark.parametrize("script", [*SCRIPTS, *DEFECTS])
def test_each_script_and_each_defect_is_a_test_in_both_lanes_unless_a_reason_stands_here(script: str) -> None:
    """The fixture `attack` is both lanes; `nearby` and `in_process` are this process, `over_flower` is the other."""
    found = of(script)
    assert found, f"no test is named test_{script}_..."
    both = any("attack" in {argument.arg for argument in test.args.args} for test in found)
    assert both != (script in IN_PROCESS_ONLY)


def test_each_test_belongs_to_a_script_or_a_defect() -> None:
    """A misspelt name would be a script that is missing."""
    here = {test.name for test in ast.parse(Path(__file__).read_text("utf-8")).body if isinstance(test, ast.FunctionDef)}
    known = tuple(f"test_{name}_" for name in (*SCRIPTS, *DEFECTS))
    assert [test.name for test in written() if test.name not in here and not test.name.startswith(known)] == []


def test_the_table_is_that_of_the_specification() -> None:
    assert (len(SCRIPTS), len(set(SCRIPTS)), len(DEFECTS)) == (35, 35, 15)
