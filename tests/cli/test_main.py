from __future__ import annotations

from click.testing import CliRunner

import tailproxy
from tailproxy.cli.main import main


def test_the_version_is_the_packages():
    done = CliRunner().invoke(main, ["--version"])
    assert (done.exit_code, done.output) == (0, f"tailproxy {tailproxy.__version__}\n")


def test_every_command_that_is_listed_can_be_called():
    context = main.make_context("tailproxy", [], resilient_parsing=True)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None, name
        assert command.name == name
        assert command.help, name


def test_a_command_that_is_not_there_is_named():
    done = CliRunner().invoke(main, ["fly"])
    assert done.exit_code == 2
    assert "No such command 'fly'" in done.output
