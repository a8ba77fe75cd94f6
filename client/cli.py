"""`wardround-site`: what site IT and the data steward of a hospital do. Exit status: 0 done, 1 refused or failed, 2 usage."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from client import (
    cli_audit,
    cli_check,
    cli_daemons,
    cli_data,
    cli_model,
    cli_predict,
    cli_roster,
    cli_rotate,
    cli_segment,
    cli_setup,
    cli_status,
    cli_steward,
    cli_ui,
)
from client.cli_output import Output
from client.daemon import code_version
from client.errors import ConfigError, Refused, SiteError, place_of
from client.home import HOME_VARIABLE, Home
from client.migrate import check
from consortium.errors import ConsortiumError
from privacy.errors import PrivacyError
from tasks.errors import TaskError

DEFAULT_HOME = Path("~/.wardround-site")
EXAMPLES = """examples:
  wardround-site init --id hospital-a --task cis_conversion --data /srv/ms-data
  wardround-site join invite.json --founders 1f0c-…      (fingerprint as told by telephone)
  wardround-site check                                    is everything ready? sends no patient data
  wardround-site plans list | show RUN | approve RUN      what is asked, by whom, what it costs, what leaves
  wardround-site guard | gateway                          the daemons: data without network, network without data
exit status: 0 done, 1 refused or failed, 2 usage or configuration"""

Handler = Callable[[Home, argparse.Namespace, Output], int]


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="wardround-site",
        description="Take part in a consortium's training without giving away a patient's record.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    home = Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME)
    root.add_argument("--home", type=Path, default=home, help=f"this site's folder (${HOME_VARIABLE} or {DEFAULT_HOME})")
    root.add_argument("--json", action="store_true", help="print what a command shows as JSON")
    verbs = root.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for part in (
        cli_setup,
        cli_check,
        cli_roster,
        cli_rotate,
        cli_data,
        cli_steward,
        cli_daemons,
        cli_status,
        cli_ui,
        cli_audit,
        cli_predict,
        cli_segment,
        cli_model,
    ):
        part.add_commands(verbs)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    home = Home(args.home.expanduser())
    handler: Handler = args.handler
    try:
        check(home.root, code_version())
        return handler(home, args, Output(as_json=args.json))
    except Refused as error:
        print(f"refused: {error.detail}", file=sys.stderr)
        return 1
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (SiteError, ConsortiumError, PrivacyError, TaskError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has seen enough
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'the system'}: {error.strerror}", file=sys.stderr)
        return 1
    except json.JSONDecodeError as error:
        print(f"error: not JSON: line {error.lineno}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # nobody foresaw it: its text may quote a patient's record, and a terminal may be logged
        place = place_of(error)
        print(f"error: {args.verb} failed, an error of this program: please report {place}; its text is not shown", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
