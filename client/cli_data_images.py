"""The part of `data validate` that looks at images: which folder, how far, with what progress. Nothing is sent."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:  # nibabel and pandas are for those who check images
    import pandas as pd

    from tasks.imaging.report import ImageReport


def add_options(validate: argparse.ArgumentParser) -> None:
    """What may be said about images."""
    about = "folder with images, BIDS or with images.yaml (default: `images` beside the tables, or the tables' folder itself)"
    validate.add_argument("--images", type=Path, metavar="FOLDER", help=about)
    validate.add_argument("--headers", action="store_true", help="of images read names and headers alone, not every voxel: seconds")


def image_folder(tables: Path, args: argparse.Namespace) -> Path | None:
    """Where the images lie; None if there are none."""
    from tasks.imaging.store import holds_images, images_beside  # here, as below: nibabel is for those who check images

    if args.images:
        named: Path = args.images.expanduser()
        return named
    return images_beside(tables) or (tables if holds_images(tables) else None)


def check_images(folder: Path, args: argparse.Namespace, accepted: "Mapping[str, pd.DataFrame] | None") -> "ImageReport":
    """The report on the images in `folder`, as the patients of the `accepted` tables, if there are any."""
    from tasks.imaging.checks import check_voxels, n_files, report_of
    from tasks.imaging.links import links_of
    from tasks.imaging.store import open_store

    store = open_store(folder, None if accepted is None else links_of(accepted))
    if args.headers:
        return report_of(store, None)
    console = Console(stderr=True)
    parts = (TextColumn("reading images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*parts, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=n_files(store))
        return report_of(store, check_voxels(store, lambda: progress.advance(bar)))
