"""A site and `wardround-site check`, as site IT calls it: what one line says, and that no other line is a false alarm."""

import json
from dataclasses import dataclass

import pytest

from client.cli import main
from client.config import SiteConfig, write_config
from client.home import Home
from client.preflight.catalogue import PROBLEMS
from server.tls import TlsFiles

Row = dict[str, str]


@dataclass
class Checked:
    """A site and its check. `hub`: the certificate's files of the hub that it joined."""

    home: Home
    tls: TlsFiles
    capsys: pytest.CaptureFixture[str]

    @property
    def port(self) -> int:
        """Of the hub in site.yaml."""
        return int(self.home.config.read_text().split('hub: "')[1].split('"')[0].rpartition(":")[2])

    def joins(self, port: int, host: str = "127.0.0.1") -> None:
        config = SiteConfig("site-a", ("cis_conversion",), self.home.root / "data", "main", f"{host}:{port}", 1)
        write_config(self.home, config)

    def check(self, *words: str, status: int) -> dict[str, Row]:
        """The rows of `check --part gateway --idle 1`, by name, and that it ends with `status`."""
        self.capsys.readouterr()
        part = () if "--part" in words else ("--part", "gateway")
        ended = main(["--home", str(self.home.root), "--json", "check", "--idle", "1", *part, *words])
        rows = json.loads(self.capsys.readouterr().out)
        problems = [(row["check"], row["code"], row["detail"]) for row in rows if row["state"] == "PROBLEM"]
        assert ended == status, problems
        return {row["check"]: row for row in rows}

    def finds(self, name: str, code: str, *words: str, asked: tuple[str, ...] = ()) -> Row:
        """Exactly one line says PROBLEM: `name`, with `code`, these words and the remedy; and status 1."""
        rows = self.check(*asked, status=1)
        assert [(row["check"], row["code"]) for row in rows.values() if row["state"] == "PROBLEM"] == [(name, code)], rows
        found = rows[name]
        assert found["remedy"] == PROBLEMS[code].remedy
        for word in words:
            assert word in found["detail"], found["detail"]
        return found
