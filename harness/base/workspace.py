"""Where things lie: one folder with the databases, the checkpoints and MLflow's files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import unquote

from harness.base.errors import StoreError, WorkspaceError
from harness.base.files import make_folder

# In a path these stand alone: nothing that leads out of a folder.
KEY, FILE_NAME, DATABASE = "[0-9a-f]{16}", r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,199}", "[0-9a-f]{32}"


def redact(url: str) -> str:
    """The address without its password, before the host and in the query; also of no address.

    >>> redact("postgresql://ada:secret@localhost/bench")
    'postgresql://ada:***@localhost/bench'
    """
    shown = re.sub(r"(?i)(password=)[^&]*", r"\1***", url)
    scheme, slashes, rest = shown.partition("://") if "://" in shown else ("", "", shown)
    user, _, host = rest.rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{scheme}{slashes}{name}:***@{host}" if colon else shown


def without_password(text: str, url: str) -> str:
    """What a library says, without the address's password or a piece of it, and without those of
    other addresses. Of a password with an unencoded `@`, libraries take the rest for the host.
    """
    text = text.replace(url, redact(url)) if url else text
    passwords = [
        url.rpartition("://")[2].rpartition("@")[0].partition(":")[2],
        *re.findall(r"(?i)password=([^&]*)", url),
    ]
    for piece in {
        piece
        for password in passwords
        for told in (password, unquote(password))
        for piece in (told, *told.split("@"))
    } - {""}:
        text = re.sub(rf"(?<!\w){re.escape(piece)}(?!\w)", "***", text)
    return re.sub(r"[\w+.-]+://\S+", lambda found: redact(found[0]), text)


def sqlite_url(path: Path) -> str:
    """The address of a SQLite file, with what an address or Optuna would misread encoded.

    >>> sqlite_url(Path("/home/ada/50%/what?/bench.db"))
    'sqlite+pysqlite:////home/ada/50%25/what%3F/bench.db'
    """
    encoded = str(path).translate({ord(sign): f"%{ord(sign):02X}" for sign in "%?{}"})
    # With its driver named, MLflow does not make the folder that the encoded path would be.
    return f"{'sqlite' if encoded == str(path) else 'sqlite+pysqlite'}:///{encoded}"


@dataclass(frozen=True)
class Edition:
    """A run as one database has it, and how often it was put back to its start: each has folders of
    its own.
    """

    database: str
    key: str
    number: int


NOWHERE = Edition("", "", 0)
"""Of files that lie in no workspace yet."""


def checkpoint_name(step: int) -> str:
    """What a run's checkpoint at this step is called.

    >>> checkpoint_name(100)
    'step-000000100.safetensors'
    """
    # A column of SQLite may hold anything.
    return f"step-{step:09d}.safetensors" if isinstance(step, int) else ""


@dataclass(frozen=True)
class Workspace:
    """A folder with `bench.db`, `studies.db`, `mlflow.db`, `mlruns/`, `checkpoints/` and
    `pictures/`.

    It is the current folder, or `BENCH_HOME`. `BENCH_DATABASE_URL`, `MLFLOW_TRACKING_URI`,
    `BENCH_STUDY_URL` and `BENCH_DATA` name other places for its parts.
    """

    home: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def current(cls, home: str | Path | None = None) -> Workspace:
        """The workspace that the environment names, or the folder `home` with all its parts.
        Nothing is created.
        """
        if home is not None:
            return cls(Path(home).expanduser().resolve())
        environment = dict(os.environ)
        return cls(Path(environment.get("BENCH_HOME") or ".").expanduser().resolve(), environment)

    @property
    def database_url(self) -> str:
        """The result database."""
        return self.environment.get("BENCH_DATABASE_URL") or sqlite_url(self.home / "bench.db")

    @property
    def study_url(self) -> str:
        """Optuna's database."""
        return self.environment.get("BENCH_STUDY_URL") or sqlite_url(self.home / "studies.db")

    @property
    def tracking_uri(self) -> str:
        """MLflow's store."""
        return self.environment.get("MLFLOW_TRACKING_URI") or sqlite_url(self.home / "mlflow.db")

    @property
    def artifacts(self) -> Path:
        """MLflow's artifact folder."""
        return self.home / "mlruns"

    @property
    def checkpoints(self) -> Path:
        """Checkpoint files: a folder for each database, and in it one for each edition of a run."""
        return self.home / "checkpoints"

    @property
    def pictures(self) -> Path:
        """Picture files, in folders like those of checkpoints."""
        return self.home / "pictures"

    def checkpoint_file(self, edition: Edition, step: int) -> Path:
        """Where a checkpoint lies; raises as `picture_file`."""
        return _inside(_folder(self.checkpoints, edition), checkpoint_name(step), self.checkpoints)

    def picture_file(self, edition: Edition, name: str) -> Path:
        """Where a picture lies.

        Raises:
            StoreError: a name out of the database is none of ours, or a link in the workspace leads
                out of it.
        """
        return _inside(_folder(self.pictures, edition), name, self.pictures)

    def folders(self, edition: Edition) -> tuple[Path, Path]:
        """Where the checkpoints and the pictures of an edition lie; raises as `picture_file`."""
        return _folder(self.checkpoints, edition), _folder(self.pictures, edition)

    @property
    def data(self) -> Path:
        """Data sets, one folder each."""
        return Path(self.environment.get("BENCH_DATA") or self.home / "data")

    def prepare(self) -> None:
        """Create the folder.

        Raises:
            WorkspaceError: the folder cannot be created or written.
        """
        try:
            make_folder(self.home)
            TemporaryFile(dir=self.home).close()
        except OSError as err:
            remedy = "Change into a folder that you may write to, or set BENCH_HOME to one."
            raise WorkspaceError(
                f"Cannot write to the workspace {self.home} ({err.strerror}). {remedy}"
            ) from err


def _folder(top: Path, edition: Edition) -> Path:
    _require(KEY, edition.key)
    if edition.number == 0:  # before databases had an id they shared the folders of the keys
        return top / edition.key
    _require(DATABASE, edition.database)
    return top / edition.database / f"{edition.key}.{edition.number:d}"


def leads_straight(path: Path, top: Path) -> bool:
    """Whether a path beneath `top` has no link and no `..` on its way from there."""
    inside = path.relative_to(top).parts
    places = (top.joinpath(*inside[:count]) for count in range(1, len(inside) + 1))
    return ".." not in inside and not any(place.is_symlink() for place in places)


def _inside(folder: Path, name: str, top: Path) -> Path:
    """A file in a folder of a run; `top` may be a link to a larger disk, nothing beneath it."""
    _require(FILE_NAME, name)
    path = folder / name
    if not leads_straight(path, top):
        raise StoreError(
            f"{path} is reached by a link, and files of runs are not followed there. Put the file "
            "in the link's place."
        )
    return path


def _require(pattern: str, name: object) -> None:
    if not isinstance(name, str) or not re.fullmatch(pattern, name):
        raise StoreError(
            f"The result database has {name!r:.60} where the name of a run or of its file belongs: "
            "bench never wrote that."
        )
