"""MLflow shows a run, and nothing more: a store that is down, slow or damaged never stops, slows or alters the run.

The mirror is a process of its own that reads the run folder and writes to MLflow, never the other way. It may be killed and
started again at any time: points carry the time of their event, so that writing one twice leaves one. Everything it sends
was opened as a sum over sites, stands in the plan, or was published by a site.

    python -m server.tracking RUN_DIR --store sqlite:////hub/mlflow.db
"""

import argparse
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from consortium.canonical import decode_json, encode_json
from consortium.documents import from_document, to_document
from consortium.errors import ConsortiumError
from consortium.plan import NOT_PRIVATE, Plan
from server.card import NOT_PRIVATE_BANNER, privacy_line, published_words
from server.errors import MirrorError, ServerError
from server.export import export_model
from server.folder import RunFolder, open_folder, write_durably
from server.journal import (
    Entry,
    EpsilonPublished,
    RoundDone,
    RoundFailed,
    RunFinished,
    RunResumed,
    RunStopped,
    decode_entry,
    split_lines,
)
from server.report import write_report
from tasks.scoring.names import parsed

QUIET = {  # mlflow reads these when it is imported
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
    "GIT_PYTHON_REFRESH": "quiet",
}
POLL_S = 0.25
LONGEST_PAUSE_S = 10.0
GRACE_S = 60.0  # how long a store may stay away after the run's end
BATCH = 500  # points per request; mlflow takes 1000
MAX_PARAM = 500  # characters; older stores cut here
NICENESS = 10
MODEL = "model"  # artifact folder of weights, description and card
RUN_TAG = "wardround.run"  # plan digest: finds the same MLflow run again, whoever lost what


@dataclass(frozen=True)
class Point:
    """One number as MLflow keeps it; `time_ms` is the event's, so that a repeated point is the same point."""

    name: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True)
class Position:
    """How far the mirror has come; `offset`: bytes of events.jsonl read.

    `state`: following, unreachable, interrupted, caught up, finished.
    """

    store: str
    mlflow_run: str
    offset: int
    line: int
    ended: bool
    state: str
    detail: str


def plan_parameters(plan: Plan) -> dict[str, str]:
    """What the plan fixes, flattened for MLflow's parameter table."""
    fixed = {
        "run_id": plan.run_id,
        "lead": plan.lead,
        "created": plan.created,
        "code_version": plan.code_version,
        "plan_digest": plan.digest.hex(),
        "roster_digest": plan.roster_digest.hex(),
        "task": f"{plan.task.name} {plan.task.version}",
        "columns": ",".join(plan.task.columns),
        "model": plan.model.name,
        "n_parameters": str(plan.n_parameters),
        "sites": ",".join(plan.sites),
        "strategy": plan.strategy.name,
        "histogram_bins": str(plan.histogram_bins),
        "coordinate_clip": f"{plan.coordinate_clip:g}",
    }
    groups = {
        "model": dict(plan.model.options),
        "strategy": dict(plan.strategy.options),
        "schedule": vars(plan.schedule),
        "privacy": vars(plan.privacy),
    }
    nested = {f"{group}.{name}": str(value) for group, values in groups.items() for name, value in values.items()}
    return {name: value[:MAX_PARAM] for name, value in (fixed | nested).items()}


def points(entry: Entry) -> tuple[Point, ...]:
    """The numbers of one event; none for most kinds."""
    time_ms = round(entry.time.timestamp() * 1000)
    match entry.event:
        case RoundDone() as done:
            values = {
                **{f"pooled.{parsed(name).plain}": value for name, value in done.metrics},
                **{f"seconds.{name}": value for name, value in done.seconds},
                "seconds.round": sum(value for _, value in done.seconds),
                "bytes.up": float(done.bytes_up),
                "bytes.down": float(done.bytes_down),
                "survivors": float(len(done.survivors)),
            }
            return tuple(Point(name, value, time_ms, done.round) for name, value in values.items())
        case RoundFailed(number):
            return (Point("failed", 1.0, time_ms, number),)
        case EpsilonPublished() as published if published.exposed != NOT_PRIVATE:
            return (Point(f"epsilon_published.{published.site}", published.exposed, time_ms, published.round),)
    return ()


def store_errors() -> tuple[type[Exception], ...]:
    """What a store that is down, busy or damaged raises."""
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    return mlflow.MlflowException, SQLAlchemyError, OSError


class MlflowStore:
    """The low-level MLflow client for one run; a call raises one of `store_errors`, none waits without a limit."""

    def __init__(self, uri: str) -> None:
        import mlflow  # after QUIET stands in the environment, which it reads at import
        from mlflow.entities import Metric, Param

        self._uri = uri
        self._client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._metric, self._param = Metric, Param

    def ensure_run(self, plan: Plan, started_ms: int) -> str:
        """The MLflow run of this plan: found by its tag, or made."""
        experiment = self._experiment(plan.task.name)
        found = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{plan.digest.hex()}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        tags = {
            RUN_TAG: plan.digest.hex(),
            "wardround.privacy": privacy_line(plan),
            "wardround.private": "yes" if plan.private else NOT_PRIVATE_BANNER,
        }
        made = self._client.create_run(experiment, start_time=started_ms, tags=tags, run_name=plan.run_id)
        return str(made.info.run_id)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=_artifacts(self._uri, name)))

    def log_parameters(self, run: str, parameters: dict[str, str]) -> None:
        params = [self._param(name, value) for name, value in parameters.items()]
        for at in range(0, len(params), 100):
            self._client.log_batch(run, params=params[at : at + 100])

    def log_points(self, run: str, values: Iterable[Point]) -> None:
        metrics = [self._metric(value.name, value.value, value.time_ms, value.step) for value in values]
        for at in range(0, len(metrics), BATCH):
            self._client.log_batch(run, metrics=metrics[at : at + BATCH])

    def set_tag(self, run: str, name: str, value: str) -> None:
        self._client.set_tag(run, name, value)

    def set_status(self, run: str, status: str, ended_ms: int | None = None) -> None:
        if ended_ms is None:
            self._client.update_run(run, status=status)
        else:
            self._client.set_terminated(run, status=status, end_time=ended_ms)

    def log_results(self, run: str, folder: RunFolder) -> None:
        """Model with its card, report and the records of its rounds. Made afresh, whoever else makes them."""
        with tempfile.TemporaryDirectory() as scratch:
            export_model(folder, Path(scratch) / MODEL)
            write_report(folder.path, Path(scratch) / folder.report.name)
            self._client.log_artifacts(run, scratch)
        if folder.records.is_dir() and any(folder.records.iterdir()):
            self._client.log_artifacts(run, str(folder.records), artifact_path=folder.records.name)

    def register(self, run: str, plan: Plan) -> None:
        """One version of the task's registered model for this run, however often this is called."""
        name = f"{plan.task.name}-{plan.model.name}"
        if name not in {found.name for found in self._client.search_registered_models(f"name = '{name}'")}:
            self._client.create_registered_model(name)
        if self._client.search_model_versions(f"run_id = '{run}'"):
            return
        source = f"{self._client.get_run(run).info.artifact_uri}/{MODEL}"
        tags = {"wardround.privacy": privacy_line(plan), RUN_TAG: plan.digest.hex()}
        self._client.create_model_version(name, source, run_id=run, tags=tags, description=privacy_line(plan))


def _artifacts(uri: str, experiment: str) -> str | None:
    """Files lie beside a local database; a server decides for itself."""
    prefix = "sqlite:///"
    if not uri.startswith(prefix):
        return None
    return (Path(uri.removeprefix(prefix)).resolve().parent / "artifacts" / experiment).as_uri()


class Mirror:
    """Follows one run folder until the run ends, or until whoever started it is gone and nothing is left to read."""

    def __init__(
        self, folder: RunFolder, store_uri: str, *, writer: IO[bytes] | None, alone: bool = False, grace_s: float = GRACE_S
    ) -> None:
        self._folder = folder
        self._plan = folder.plan()
        self._uri = store_uri
        self._writer = writer  # end of file on it = the coordinator is gone
        self._alone = alone  # nobody holds the other end: follow until the run ends, or is silent for too long
        self._heard = time.monotonic()
        self._grace_s = grace_s
        self._position = replace(load_position(folder, store_uri), state="following", detail="")
        self._pause_s = POLL_S
        self._store: MlflowStore | None = None
        self._attached = False
        self._stopped = False
        self._silence_s = 2.0 * sum(vars(self._plan.deadlines).values())

    def follow(self) -> Position:
        """Returns when done; never raises on the store's account."""
        deadline = None
        while True:
            gone = self._gone()  # looked at before reading: if gone, what is read now is all there will be
            mirrored = self._try(last=gone)
            if self._position.state == "finished" or (gone and mirrored):
                return self._position
            if gone:
                deadline = deadline or time.monotonic() + self._grace_s
                if time.monotonic() > deadline:
                    return self._position
            self._wait()

    def _try(self, *, last: bool) -> bool:
        """One round of mirroring; False, with a visible state and a longer pause, if the store did not take it."""
        try:
            self._store = self._store or MlflowStore(self._uri)
            self._attach(self._store)
            self._advance(self._store)
            if last and self._position.state != "finished":
                self._leave(self._store)
        except store_errors() as error:
            self._note("unreachable", f"{type(error).__name__} while writing to the store")
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            return False
        self._pause_s = POLL_S
        return True

    def _attach(self, store: MlflowStore) -> None:
        """Find or make the MLflow run, once per process; a store that lost the run gets everything again."""
        if self._attached:
            return
        first, _ = self._new(0, 0)
        if not first:
            return
        run = store.ensure_run(self._plan, round(first[0].time.timestamp() * 1000))
        store.log_parameters(run, plan_parameters(self._plan))
        if run != self._position.mlflow_run:
            self._note("following", "", mlflow_run=run, offset=0, line=0, ended=False)
        self._attached = True

    def _advance(self, store: MlflowStore) -> None:
        """Everything new, in order; the position moves only behind what the store has taken."""
        run = self._position.mlflow_run
        entries, offset = self._new(self._position.offset, self._position.line)
        if entries:
            self._heard = time.monotonic()
            store.log_points(run, [point for entry in entries for point in points(entry)])
            ended = self._mirror_status(store, run, entries)
            line = self._position.line + len(entries)
            self._note("following", "", offset=offset, line=line, ended=ended)
        if self._position.ended and self._position.state != "finished":
            store.log_results(run, self._folder)
            store.register(run, self._plan)
            self._note("finished", "")

    def _leave(self, store: MlflowStore) -> None:
        """Nothing more will come, though the run has not ended."""
        if self._writer is None and not self._alone:
            self._note("caught up", "run again, or with --follow, for later events")
        elif self._position.mlflow_run:
            store.set_status(self._position.mlflow_run, "KILLED", round(time.time() * 1000))
            self._note("interrupted", "the coordinator is gone; the run may be resumed")

    def _mirror_status(self, store: MlflowStore, run: str, entries: list[Entry]) -> bool:
        ended = self._position.ended
        for entry in entries:
            time_ms = round(entry.time.timestamp() * 1000)
            match entry.event:
                case RunFinished():
                    store.set_status(run, "FINISHED", time_ms)
                    ended = True
                case RunStopped():
                    store.set_status(run, "KILLED", time_ms)
                    self._stopped = True
                case EpsilonPublished(site):
                    store.set_tag(run, f"wardround.epsilon_published.{site}", published_words(entry.event))
                case RunResumed():
                    store.set_status(run, "RUNNING")
                    ended = self._stopped = False
        return ended

    def _new(self, offset: int, line: int) -> tuple[list[Entry], int]:
        """Complete events behind `offset` (bytes) and `line`, and the offset behind them."""
        try:
            with self._folder.events.open("rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return [], offset
        lines, whole = split_lines(data)
        return [decode_entry(text, number) for number, text in enumerate(lines, line + 1)], offset + whole

    def _gone(self) -> bool:
        if self._alone:
            return self._stopped or time.monotonic() - self._heard > self._silence_s
        if self._writer is None:
            return True
        ready, _, _ = select.select([self._writer], [], [], 0)
        return bool(ready)

    def _wait(self) -> None:
        if self._writer is None or self._gone():
            time.sleep(min(self._pause_s, 1.0))
        else:
            select.select([self._writer], [], [], self._pause_s)

    def _note(self, state: str, detail: str, **changes: Any) -> None:
        self._position = replace(self._position, state=state, detail=detail, **changes)
        write_durably(self._folder.mirror_state, encode_json(to_document(self._position)))


def load_position(folder: RunFolder, store_uri: str) -> Position:
    """Where to go on; from the start if there is no usable record, or if it is of another store."""
    start = Position(redacted(store_uri), "", 0, 0, False, "following", "")
    try:
        found = from_document(Position, decode_json(folder.mirror_state.read_bytes()))
    except (OSError, ConsortiumError):
        return start
    return found if found.store == start.store else start


def redacted(uri: str) -> str:
    """The store's address without user and password."""
    scheme, found, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if found else uri


@dataclass(frozen=True)
class MirrorHandle:
    """A running mirror. It ends by itself when its starter is gone; `stop` is for those who leave no process behind."""

    process: subprocess.Popen[bytes]
    folder: RunFolder
    store: str

    @property
    def position(self) -> Position:
        return load_position(self.folder, self.store)

    def wait(self, timeout_s: float) -> bool:
        """Tell the mirror that no event will follow and wait for it; True if all is in the store."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            return self.process.wait(timeout_s) == 0
        except subprocess.TimeoutExpired:
            return False

    def stop(self, timeout_s: float = 2.0) -> None:
        """End it now, whatever it does; running it again later continues where it was."""
        if self.process.poll() is None:
            self.process.terminate()
        if not self.wait(timeout_s) and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def start_mirror(run_dir: Path, store: str, *, alone: bool = False, grace_s: float = GRACE_S) -> MirrorHandle:
    """Start the mirror as a low-priority process of its own session. Raises `MirrorError` only if none can be started.

    It lives as long as its starter and at most `grace_s` longer; `alone`: until the run ends, whoever started it.
    """
    folder = open_folder(run_dir)
    program = Path(__file__).resolve().parent.parent  # found even where the distribution is not installed
    paths = [str(program), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "server.tracking", str(run_dir), "--store", store]
    command += ["--alone" if alone else "--follow", "--grace-s", str(grace_s)]
    try:
        with folder.mirror_log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if alone else subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **QUIET, "PYTHONPATH": os.pathsep.join(paths)},
            )
    except OSError as error:
        raise MirrorError(f"cannot start the tracking mirror: {error.strerror}; the run goes on without it") from error
    return MirrorHandle(process, folder, store)


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: all is in the store; 1: some of it is not (run it again); 2: wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m server.tracking", description="Mirror a run folder to MLflow.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--store", required=True, help="MLflow tracking URI, e.g. sqlite:////hub/mlflow.db")
    parser.add_argument("--follow", action="store_true", help="go on until standard input ends")
    parser.add_argument("--alone", action="store_true", help="go on until the run ends")
    parser.add_argument("--grace-s", type=float, default=GRACE_S, help="seconds a store may stay away after that")
    options = parser.parse_args(arguments)
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    writer = sys.stdin.buffer if options.follow else None
    try:
        os.nice(NICENESS)
        folder = open_folder(options.run_dir)
        mirror = Mirror(folder, options.store, writer=writer, alone=options.alone, grace_s=options.grace_s)
        position = mirror.follow()
    except (ServerError, ConsortiumError, ImportError, OSError) as error:
        print(f"mirror: {error}", file=sys.stderr)
        return 1
    print(f"mirror: {position.state} {position.detail}".rstrip(), file=sys.stderr)
    return 0 if position.state in ("finished", "caught up", "interrupted") else 1


if __name__ == "__main__":
    sys.exit(main())
