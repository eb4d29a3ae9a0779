"""Credentials that a program fetches. The programs are real; time is ours where it matters."""

import json
import sys
import time
from pathlib import Path

import pytest
import pytest_twisted
import yaml
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from tailproxy.errors import UpstreamError
from tailproxy.kube.plugin import PluginCredential, login_command
from tests.kube.tls import client_pair
from tests.proxy.servers import Authority


class ClockedReactor(Clock):
    """Real processes; time stands still until a test lets it pass."""

    def spawnProcess(self, *args, **kwargs):
        return reactor.spawnProcess(*args, **kwargs)


@pytest.fixture
def clock() -> ClockedReactor:
    clock = ClockedReactor()
    clock.rightNow = float(int(time.time()))
    return clock


@pytest.fixture
def credentials():
    """Credentials whose programs are ended with the test."""
    made = []

    def make(clock, code, **options) -> PluginCredential:
        credential = PluginCredential(clock, [sys.executable, "-c", code], **options)
        credential.startService()
        made.append(credential)
        return credential

    yield make

    async def end() -> None:
        for credential in made:
            if credential.running:
                credential.stopService()
            await idle(credential)

    pytest_twisted.blockon(Deferred.fromCoroutine(end()))


async def idle(credential: PluginCredential) -> None:
    """Wait until the program has ended."""
    while credential._run is not None:
        await deferLater(reactor, 0.01)


def runs(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and ") Z " not in state.read_text()


def error(credential: PluginCredential) -> str:
    with pytest.raises(UpstreamError) as caught:
        credential.bearer()
    assert caught.value.code == 503
    return str(caught.value)


def saying(**answer) -> str:
    return f"print({json.dumps(json.dumps({'expiry': None, **answer}))})"


@pytest_twisted.ensureDeferred
async def test_a_token_is_there_once_the_program_has_answered(clock, credentials):
    credential = credentials(clock, saying(token="abc"))
    assert "has not answered yet" in error(credential)
    await idle(credential)
    assert credential.bearer() == b"abc"
    assert credential.client_pair() is None


@pytest_twisted.ensureDeferred
async def test_a_client_certificate_serves_as_well(clock, credentials):
    chain, key = client_pair(Authority(), "proxy")
    credential = credentials(clock, saying(chain=chain.decode(), key=key.decode()))
    await idle(credential)
    assert credential.bearer() is None
    assert credential.client_pair().chain == chain


@pytest_twisted.ensureDeferred
async def test_a_certificate_with_anothers_key_is_refused(clock, credentials):
    authority = Authority()
    (chain, _), (_, key) = client_pair(authority, "a"), client_pair(authority, "b")
    credential = credentials(clock, saying(chain=chain.decode(), key=key.decode()))
    await idle(credential)
    assert "do not belong together" in error(credential)


@pytest_twisted.ensureDeferred
async def test_it_is_fetched_anew_before_it_ends(clock, credentials, tmp_path):
    code = (
        "import json, os, pathlib\n"
        f"path = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "n = int(path.read_text()) + 1 if path.exists() else 1\n"
        "path.write_text(str(n))\n"
        f"print(json.dumps({{'token': f't{{n}}', 'expiry': {clock.seconds()} + n * 600}}))"
    )
    credential = credentials(clock, code)
    await idle(credential)
    assert credential.bearer() == b"t1"
    clock.advance(539)
    assert credential._run is None
    clock.advance(1)
    assert credential.bearer() == b"t1", "the old one serves while the new one is fetched"
    await idle(credential)
    assert credential.bearer() == b"t2"


@pytest_twisted.ensureDeferred
async def test_an_expired_credential_is_not_used(clock, credentials):
    credential = credentials(clock, saying(token="abc", expiry=clock.seconds() + 10))
    await idle(credential)
    clock.rightNow += 10
    assert "expired" in error(credential)


@pytest_twisted.ensureDeferred
async def test_a_failure_is_told_and_tried_again(clock, credentials, tmp_path):
    code = (
        f"import os, sys\nif not os.path.exists({str(tmp_path / 'up')!r}):\n"
        "    sys.exit('first line\\nno such user')\n" + saying(token="abc")
    )
    credential = credentials(clock, code)
    await idle(credential)
    message = error(credential)
    assert "no such user" in message
    assert "first line" not in message
    (tmp_path / "up").touch()
    clock.advance(1)
    await idle(credential)
    assert credential.bearer() == b"abc"


@pytest.mark.parametrize(
    "code",
    ["print('{}')", "print('nonsense')", "pass", 'print(\'{"token": "a b", "expiry": null}\')'],
)
@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_none_is_a_failure(clock, credentials, code):
    credential = credentials(clock, code)
    await idle(credential)
    error(credential)


@pytest_twisted.ensureDeferred
async def test_a_program_that_hangs_is_ended_with_what_it_started(credentials, tmp_path):
    pidfile = tmp_path / "pid"
    code = (
        "import os, subprocess, time\nos.setpgid(0, 0)\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(pidfile)!r}, 'w').write(str(child.pid))\ntime.sleep(60)"
    )
    credential = credentials(reactor, code, timeout=1.0)
    await idle(credential)
    assert "did not answer within 1 s" in error(credential)
    while runs(int(pidfile.read_text())):
        await deferLater(reactor, 0.01)


@pytest_twisted.ensureDeferred
async def test_stopping_ends_the_program(clock, credentials):
    credential = credentials(clock, "import time; time.sleep(60)")
    credential.stopService()
    await idle(credential)
    assert clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_rejected_credential_is_fetched_anew_but_not_in_a_storm(clock, credentials):
    credential = credentials(clock, saying(token="abc"))
    await idle(credential)
    credential.rejected()
    assert credential._run is None, "it may have been about the one before"
    clock.advance(10)
    credential.rejected()
    assert credential._run is not None
    await idle(credential)


def kubeconfig(tmp_path: Path, user: dict) -> Path:
    path = tmp_path / "config"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


async def run_login(path: Path) -> PluginCredential:
    credential = PluginCredential(reactor, login_command([path], "x"))
    credential.startService()
    await idle(credential)
    credential.stopService()
    return credential


def exec_user(tmp_path: Path, body: str) -> dict:
    plugin = tmp_path / "plugin"
    plugin.write_text(f"#!{sys.executable}\n{body}")
    plugin.chmod(0o755)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(plugin),
            "interactiveMode": "Never",
            "env": [{"name": "WHO", "value": "plugin-user"}],
        }
    }


@pytest_twisted.ensureDeferred
async def test_an_exec_plugin_of_a_kubeconfig_is_run(tmp_path):
    body = (
        "import json, os\n"
        "assert json.loads(os.environ['KUBERNETES_EXEC_INFO'])['kind'] == 'ExecCredential'\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1',\n"
        "  'kind': 'ExecCredential', 'status': {'token': os.environ['WHO'],\n"
        "  'expirationTimestamp': '2100-01-01T00:00:00Z'}}))\n"
    )
    path = kubeconfig(tmp_path, exec_user(tmp_path, body))
    credential = await run_login(path)
    assert credential.bearer() == b"plugin-user"
    assert credential._now.expiry == 4102444800


@pytest_twisted.ensureDeferred
async def test_an_exec_plugin_that_fails_gives_its_reason(tmp_path):
    path = kubeconfig(tmp_path, exec_user(tmp_path, "import sys\nsys.exit('please log in')"))
    credential = await run_login(path)
    assert "please log in" in error(credential)


@pytest_twisted.ensureDeferred
async def test_an_openid_token_that_is_still_valid_is_used(tmp_path):
    # Not signed: nobody but the API server verifies it. {"exp": 4102444800}
    token = "e30.eyJleHAiOiA0MTAyNDQ0ODAwfQ.c2ln"
    user = {"auth-provider": {"name": "oidc", "config": {"id-token": token}}}
    credential = await run_login(kubeconfig(tmp_path, user))
    assert credential.bearer() == token.encode()
    assert credential._now.expiry == 4102444800


def test_the_login_program_is_named_by_its_path():
    command = login_command([Path("/a"), Path("/b")], "ctx")
    assert command[-3:] == ["ctx", "/a", "/b"]
    assert Path(command[-4]).exists()
