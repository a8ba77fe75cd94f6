"""One way to print: a table or key-value lines for people, the same content as JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Output:
    as_json: bool

    def rows(self, title: str, rows: Sequence[Mapping[str, object]], *, empty: str = "nothing") -> None:
        if self.as_json:
            print(json.dumps(list(rows), indent=1, sort_keys=True))
        elif not rows:
            print(f"{title}: {empty}")
        else:
            table = Table(title=title, title_justify="left")
            for name in rows[0]:
                table.add_column(name, overflow="fold")
            for row in rows:
                table.add_row(*(Text(str(value)) for value in row.values()))  # Text: a plan's words are shown, never obeyed
            Console().print(table)

    def facts(self, title: str, facts: Mapping[str, object]) -> None:
        if self.as_json:
            print(json.dumps(dict(facts), indent=1, sort_keys=True, default=str))
            return
        print(title)
        width = max(map(len, facts), default=0)
        for name, value in facts.items():
            print(f"  {name:<{width}}  {value}")

    def say(self, sentence: str) -> None:
        """A remark for people; programs read the JSON alone."""
        if not self.as_json:
            print(sentence)
