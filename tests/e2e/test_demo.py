"""The tour that `tox -e demo` gives checks itself; here it is given once."""

from __future__ import annotations

from tests.lab.demo import farewell, tour


def test_tour_goes_as_it_should(lab, proxy, capsys):
    before = lab.tailnet.policy
    tour(lab)
    farewell(lab, proxy, stays=False)
    shown = capsys.readouterr().out
    assert shown.index("kubectl get pods") < shown.index("kubectl auth whoami")
    assert "in force after" in shown
    assert lab.tailnet.policy == before
