"""A Dask cluster whose ports are open to nobody without a certificate."""

from __future__ import annotations

import shutil
import subprocess
import sys

import dask
import pytest
from postgres import free_port

from harness.base.errors import UsageError
from harness.execution.dask import connect


@pytest.fixture
def tls_scheduler(tmp_path):
    """The address of a scheduler, and the client's settings that it lets in."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    key, certificate, address = (
        tmp_path / "key.pem",
        tmp_path / "cert.pem",
        f"tls://127.0.0.1:{free_port()}",
    )
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=bench",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(made, check=True, capture_output=True)
    tls = ["--tls-ca-file", str(certificate), "--tls-cert", str(certificate), "--tls-key", str(key)]
    command = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        address,
        "--dashboard-address",
        "127.0.0.1:0",
        *tls,
    ]
    scheduler = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert any("Scheduler at:" in line for line in scheduler.stderr)
        names = {"ca-file": str(certificate), "client": {"cert": str(certificate), "key": str(key)}}
        yield address, {f"distributed.comm.tls.{name}": value for name, value in names.items()}
    finally:
        scheduler.kill()
        scheduler.communicate()


def test_a_scheduler_with_tls_is_reached_with_its_certificate_and_not_without(tls_scheduler):
    address, settings = tls_scheduler
    with dask.config.set(settings), connect(address) as client:
        assert client.scheduler_info()["address"] == address
    with pytest.raises(UsageError, match=r"No Dask scheduler answers at tls://.*docs/cluster.md"):
        connect(address)
    with (
        dask.config.set(settings),
        pytest.raises(UsageError, match="No Dask scheduler answers at tcp://"),
    ):
        connect(address.replace("tls://", "tcp://"))


def test_where_dask_is_missing_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'bench-vi\[dask\]'"):
        connect("tcp://127.0.0.1:8786")
