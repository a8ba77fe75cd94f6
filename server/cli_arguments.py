"""Arguments that several commands of the lead take."""

import argparse

from consortium.roster import HELD_OUT


def add_held_out(command: argparse.ArgumentParser) -> None:
    """`--held-out`: half of these patients are looked at while a model is made, the other half at its end."""
    about = "part of the patients never trained on (default %(default)s)"
    command.add_argument("--held-out", type=_part, default=HELD_OUT, metavar="PART", help=about)


def _part(text: str) -> float:
    try:
        part = float(text)
    except ValueError:
        part = -1.0
    if not 0.0 < part < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no part of the patients: give one above 0 and below 1, such as {HELD_OUT}")
    return part
