"""One way to print for all commands of the lead: tables and lines for people, the same content as JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Output:
    as_json: bool

    def rows(self, title: str, rows: Sequence[Mapping[str, object]], *, empty: str = "nothing") -> None:
        """A table whose columns are the keys of the first row."""
        if self.as_json:
            print(json.dumps(list(rows), indent=1, sort_keys=True))
        elif not rows:
            print(f"{title}: {empty}")
        else:
            table = Table(title=title, title_justify="left")
            for name in rows[0]:
                table.add_column(name, overflow="fold")
            for row in rows:
                table.add_row(*(_text(value) for value in row.values()))
            Console().print(table)

    def side_by_side(self, title: str, rows: Sequence[Mapping[str, object]]) -> None:
        """One column for each row and one line for each of its keys: reads well however long the names are."""
        if self.as_json or not rows:
            self.rows(title, rows)
            return
        first, *others = rows[0]
        table = Table(title=title, title_justify="left")
        for name in (first, *(str(row[first]) for row in rows)):
            table.add_column(name, overflow="fold")
        for name in others:
            table.add_row(name, *(_text(row[name]) for row in rows))
        Console().print(table)

    def facts(self, title: str, facts: Mapping[str, object]) -> None:
        """Names and values, one a line."""
        if self.as_json:
            print(json.dumps(dict(facts), indent=1, sort_keys=True))
            return
        print(title)
        width = max(map(len, facts), default=0)
        for name, value in facts.items():
            print(f"  {name:<{width}}  {_text(value)}")

    def lines(self, lines: Sequence[str], document: object) -> None:
        """Prepared lines for people, `document` for programs."""
        print(json.dumps(document, indent=1, sort_keys=True) if self.as_json else "\n".join(lines))

    def say(self, sentence: str) -> None:
        """A remark for people; programs read the JSON alone."""
        if not self.as_json:
            print(sentence)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return " / ".join(map(_text, value))
    return "" if value is None else str(value)
