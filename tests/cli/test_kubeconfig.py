"""`tailproxy kubeconfig` as a person uses it, against a tailscaled that is played."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import yaml

from tests.client.test_destination import NAME, SERVICE, tailnet
from tests.kube.tls import pem
from tests.proxy.servers import Authority
from tests.wire.test_kubeconfig import FRESH, LAB

LAB_USER = """\
apiVersion: v1
kind: Config
current-context: lab
contexts: [{name: lab, context: {cluster: lab, user: bob}}]
users: [{name: bob, user: {token: secret}}]
"""


class Tailscaled(socketserver.ThreadingUnixStreamServer):
    """The LocalAPI's status at a unix socket."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.status = SERVICE
        super().__init__(str(path), Handler)


class Handler(BaseHTTPRequestHandler):
    """Says the status, with all peers."""

    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        assert self.path == "/localapi/v0/status?peers=true"
        body = json.dumps(self.server.status).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def tailscaled(tmp_path):
    with Tailscaled(tmp_path / "tailscaled.sock") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def run(tmp_path):
    """Run the command with a home folder of its own."""

    def run(*words: str, command: str = "kubeconfig", code: int = 0, **environ: str):
        done = subprocess.run(
            [
                sys.executable, "-c", "from tailproxy.cli.main import main; main()",
                *command.split(), *words, f"--socket={tmp_path / 'tailscaled.sock'}",
            ],
            capture_output=True,
            text=True,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", **environ},
            cwd=Path(__file__).parent.parent.parent,
            timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    return run


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / ".kube").mkdir()
    return tmp_path / ".kube" / "config"


@pytest.mark.usefixtures("tailscaled")
class TestConnected:
    @pytest.mark.parametrize("command", ["kubeconfig", "configure kubeconfig"])
    def test_it_says_what_it_changed_and_what_comes_next(self, run, file, command):
        done = run("kube-prod", command=command)
        assert file.read_text() == FRESH
        assert done.stdout == ""
        assert done.stderr.splitlines() == [
            f"{file}:",
            f"  added cluster '{NAME}': server https://{NAME}",
            f"  added context '{NAME}': cluster {NAME}, user tailscale-auth",
            "  added user 'tailscale-auth': token",
            f"  current-context is '{NAME}'",
            "Next: kubectl auth whoami",
        ]

    def test_the_second_time_there_is_nothing_to_change(self, run, file):
        run("kube-prod")
        done = run("kube-prod")
        assert f"{file}: nothing to change" in done.stderr
        assert file.read_text() == FRESH

    def test_every_name_can_be_chosen(self, run, file, tmp_path):
        authority = Authority()
        ca = tmp_path / "ca.pem"
        ca.write_bytes(pem(authority.certificate))
        file.write_text(LAB)
        done = run(
            "kube-prod", "--http", "--context=x", "--cluster=c", "--user=u", "-n", "team",
            "--no-set-current", f"--ca={ca}", "--proxy-url=http://localhost:1055",
        )  # fmt: skip
        config = yaml.safe_load(file.read_text())
        cluster = config["clusters"][1]
        assert cluster["name"] == "c"
        assert cluster["cluster"].pop("certificate-authority-data")
        assert cluster["cluster"] == {
            "server": f"http://{NAME}",
            "proxy-url": "http://localhost:1055",
        }
        assert config["contexts"][1] == {
            "name": "x",
            "context": {"cluster": "c", "user": "u", "namespace": "team"},
        }
        assert config["users"][1] == {"name": "u", "user": {"token": "unused"}}
        assert config["current-context"] == "lab"
        assert "Next: kubectl --context x auth whoami" in done.stderr

    def test_an_entry_can_be_printed_alone(self, run, file):
        file.write_text(LAB)
        done = run("kube-prod", "-o", "-")
        assert (done.stdout, done.stderr) == (FRESH, "")
        assert file.read_text() == LAB

    def test_a_change_can_be_looked_at_first(self, run, file):
        file.write_text(LAB)
        done = run("kube-prod", "--dry-run")
        assert f"{file} would change:\n  added cluster '{NAME}'" in done.stderr
        assert "secret" not in done.stderr
        assert "Next" not in done.stderr
        assert file.read_text() == LAB

    def test_an_entry_can_be_taken_out_again(self, run, file):
        file.write_text(LAB)
        run("kube-prod", "--no-set-current")
        done = run("kube-prod", "--remove")
        assert done.stderr.splitlines() == [
            f"{file}:",
            f"  removed context '{NAME}'",
            f"  removed cluster '{NAME}'",
        ]
        assert file.read_text().startswith(LAB)

    def test_to_print_and_to_take_out_is_a_contradiction(self, run):
        assert "--remove changes a file" in run("kube-prod", "--remove", "-o", "-", code=2).stderr

    def test_the_users_own_credentials_can_be_kept(self, run, file):
        file.write_text(LAB)
        run("kube-prod", "--keep-user")
        config = yaml.safe_load(file.read_text())
        assert config["users"] == [{"name": "bob", "user": {"token": "secret"}}]
        assert config["contexts"][1]["context"] == {"cluster": NAME, "user": "bob"}

    def test_a_user_to_keep_may_be_in_another_file(self, run, tmp_path):
        (tmp_path / "theirs").write_text(LAB_USER)
        (tmp_path / "ours").write_text("")
        run("kube-prod", "--keep-user", KUBECONFIG=f"{tmp_path}/ours:{tmp_path}/theirs")
        config = yaml.safe_load((tmp_path / "ours").read_text())
        assert config["contexts"][0]["context"]["user"] == "bob"
        assert "users" not in config
        assert (tmp_path / "theirs").read_text() == LAB_USER

    def test_another_users_credentials_are_never_replaced(self, run, file):
        file.write_text(LAB)
        done = run("kube-prod", "--user", "bob", code=1)
        assert f"Error: {file}: the user 'bob' has credentials of its own" in done.stderr
        assert file.read_text() == LAB

    def test_a_file_can_be_named(self, run, file, tmp_path):
        done = run("kube-prod", f"--kubeconfig={tmp_path / 'other'}")
        assert (tmp_path / "other").read_text() == FRESH
        assert not file.exists()
        assert f"Next: kubectl --kubeconfig {tmp_path / 'other'} auth whoami" in done.stderr

    @pytest.mark.parametrize("option", ["--context", "--cluster", "--user", "--namespace"])
    @pytest.mark.parametrize("name", ["", " ", "a\nb"])
    def test_names_that_nobody_could_select_are_refused(self, run, option, name):
        done = run("kube-prod", option, name, code=2)
        assert f"'{option}'" in done.stderr or f"{option}'" in done.stderr
        assert "at least one character" in done.stderr

    def test_a_file_that_is_no_kubeconfig_is_named(self, run, file):
        file.write_text("kind: Pod\n")
        done = run("kube-prod", code=1)
        assert f"Error: {file}: invalid kubeconfig: it lacks apiVersion: v1" in done.stderr
        assert file.read_text() == "kind: Pod\n"


def test_dp_K18_nothing_is_written_if_tailscaled_is_not_connected(run, file, tailscaled):
    tailscaled.status = tailnet(state="Stopped")
    done = run(NAME, code=1)
    assert "Error: tailscaled is not connected to a tailnet (its state is Stopped)" in done.stderr
    assert not file.exists()


def test_without_tailscaled_a_full_name_is_taken_with_a_warning(run, file, tmp_path):
    done = run(f"https://{NAME}")
    assert file.read_text() == FRESH
    assert done.stderr.startswith(
        f"Warning: nobody checked the name {NAME}: there is no socket "
        f"{tmp_path / 'tailscaled.sock'}\n"
    )


def test_without_tailscaled_a_short_name_is_refused_with_a_next_step(run, file):
    done = run("kube-prod", code=1)
    assert "Error: only tailscaled knows the full name of 'kube-prod'" in done.stderr
    assert "--socket" in done.stderr
    assert not file.exists()
