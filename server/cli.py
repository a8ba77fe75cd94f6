"""`wardround-lead`: what a consortium's lead does. Exit status: 0 done, 1 refused or failed, 2 usage or configuration.

This file only dispatches. A command's module is imported when that command is asked for, so that looking at a run does not
wait for what training needs.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from consortium.errors import ConsortiumError
from privacy.errors import PrivacyError
from secagg.errors import SecaggError
from server import migrate
from server.cli_output import Output
from server.errors import ConfigError, ServerError
from server.home import HOME_VARIABLE, LeadHome, default_home
from tasks.errors import TaskError

EXAMPLES = """examples:
  wardround-lead hub init --consortium ms-north --lead lead-a --host hub.example.org
  wardround-lead roster add-site join-request.json --told 1f0c-… --hub hub.example.org:443 --out invite.json
  wardround-lead plan task=cis_conversion privacy=epsilon3 federation=roster
  wardround-lead sign PLAN
  wardround-lead run PLAN
  wardround-lead status RUN --json
exit status: 0 done, 1 refused or failed, 2 usage or configuration"""

# verb -> module that adds it (and what it does, for the list of commands)
COMMANDS: Mapping[str, tuple[str, str]] = {
    "hub": ("server.cli_hub", "found the consortium's hub, start it"),
    "roster": ("server.cli_roster", "who is in the consortium"),
    "plan": ("server.cli_plan", "compose a plan and say what it costs"),
    "sign": ("server.cli_plan", "sign a plan"),
    "run": ("server.cli_run", "start a signed plan"),
    "resume": ("server.cli_run", "go on with a run that stopped"),
    "stop": ("server.cli_run", "end a run now; it can be resumed"),
    "simulate": ("server.cli_run", "the same plan over simulated hospitals on this machine"),
    "publish": ("server.cli_publish", "what sites publish about their ledgers"),
    "status": ("server.cli_reports", "where a run stands"),
    "compare": ("server.cli_reports", "runs side by side"),
    "report": ("server.cli_reports", "one page about a run"),
    "result": ("server.cli_reports", "what a run of sums found"),
    "model": ("server.cli_reports", "export the trained model"),
}

WRITERS = frozenset({"hub", "roster", "plan", "sign", "run", "resume", "publish"})  # of the lead's folder

Handler = Callable[[LeadHome, argparse.Namespace, Output], int]


class CommandModule(Protocol):
    """What a module named in `COMMANDS` offers; it sets `handler`, a `Handler`, on each of its parsers."""

    def add_commands(
        self, verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", common: argparse.ArgumentParser
    ) -> None: ...


def parser(wanted: str | None) -> argparse.ArgumentParser:
    """The parser with the commands of the module that has `wanted`; the others are only listed."""
    root = argparse.ArgumentParser(
        prog="wardround-lead",
        description="Train one model with several hospitals, and see none of their patients.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_common(root, home=default_home(), as_json=False)
    common = argparse.ArgumentParser(add_help=False)  # the same options behind the verb, without undoing those before it
    _add_common(common, home=argparse.SUPPRESS, as_json=argparse.SUPPRESS)
    verbs = root.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    module = COMMANDS[wanted][0] if wanted else ""
    for verb, (where, does) in COMMANDS.items():
        if where != module:
            verbs.add_parser(verb, help=does)
    if module:
        cast(CommandModule, importlib.import_module(module)).add_commands(verbs, common)
    return root


def _add_common(target: argparse.ArgumentParser, *, home: object, as_json: object) -> None:
    target.add_argument(
        "--home", type=Path, default=home, help=f"the lead's folder (default: ${HOME_VARIABLE} or ./wardround-lead)"
    )
    target.add_argument("--json", action="store_true", default=as_json, help="print what a command shows as JSON")


def _verb(words: Sequence[str]) -> str | None:
    """The command asked for: the first word that is no option and no option's value."""
    plain = (word for before, word in zip(["", *words], words, strict=False) if before != "--home" and not word.startswith("-"))
    first = next(plain, None)
    return first if first in COMMANDS else None


def _parsed(root: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Choices such as `schedule.rounds=10` may stand on either side of options: argparse takes the first stretch of them alone."""
    args, rest = root.parse_known_args(words)
    if rest and (not hasattr(args, "overrides") or any(word.startswith("-") or "=" not in word for word in rest)):
        root.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def remember(home: LeadHome, args: argparse.Namespace) -> None:
    """An older program than the one that wrote the folder stops here; what writes leaves its version first."""
    if args.verb in WRITERS and getattr(args, "action", "") != "show" and home.roster_file.exists():
        migrate.forward(home.root, migrate.code_version())
    else:
        migrate.check(home.root, migrate.code_version())


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parsed(parser(_verb(words)), words)
    handler: Handler = args.handler
    try:
        home = LeadHome(args.home.expanduser())
        remember(home, args)
        return handler(home, args, Output(as_json=args.json))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ServerError, ConsortiumError, PrivacyError, SecaggError, TaskError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has seen enough
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'the system'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
