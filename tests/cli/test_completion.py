"""Completion by kubectl: what is offered behind `kubectl tailproxy`."""

from __future__ import annotations

import sys

import pytest

from tailproxy.cli.completion import complete


@pytest.fixture
def offered(monkeypatch, capsys):
    def offered(*words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["kubectl_complete-tailproxy", *words])
        complete()
        return capsys.readouterr().out.splitlines()

    return offered


def test_commands_are_offered_with_what_they_do(offered):
    found = offered("ku")
    assert found[0].startswith("kubeconfig\tHave kubectl reach a cluster")
    assert found[1:] == [":4"]
    assert {line.partition("\t")[0] for line in offered("")} >= {"configure", "whoami", ":4"}
    assert offered() == offered("")


def test_options_are_offered(offered):
    found = offered("kubeconfig", "--keep")
    assert found[0].startswith("--keep-user\tFor a proxy in noauth mode")
    assert found[1:] == [":4"]


def test_choices_are_offered(offered):
    assert offered("whoami", "-o", "") == ["json", "yaml", ":4"]


def test_files_are_left_to_the_shell(offered):
    assert offered("kubeconfig", "--ca", "/etc/") == [":0"]


def test_nothing_is_offered_where_there_is_nothing(offered):
    assert offered("kubeconfig", "--context", "") == [":4"]
