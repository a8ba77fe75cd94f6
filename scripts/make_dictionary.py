"""Writes the data dictionary of the contract anew: tasks/ms/dictionary.html and dictionary.json.

    .venv/bin/python scripts/make_dictionary.py
    .venv/bin/python scripts/make_dictionary.py --out FOLDER

A test compares the committed files with what this writes.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tasks.ms.contract import CONTRACT  # noqa: E402
from tasks.ms.dictionary import dictionary_json, dictionary_page  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "tasks" / "ms", help="folder (default %(default)s)")
    out = parser.parse_args().out
    (out / "dictionary.html").write_text(dictionary_page(CONTRACT), encoding="utf-8")
    content = json.dumps(dictionary_json(CONTRACT), indent=1, ensure_ascii=False)
    (out / "dictionary.json").write_text(f"{content}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
