"""What a target means to the API server."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailproxy.wire.requestinfo import (
    NodeProxy,
    boolean,
    is_discovery,
    is_long_running,
    request_info,
)
from tailproxy.wire.requestinfo import node_proxy as node_proxy_of

from .golden import cases


def session_kind(target):
    return request_info(b"GET", target).session


def node_proxy(method, target, upgrade):
    return node_proxy_of(method, request_info(method, target), upgrade)


POD = "/api/v1/namespaces/d/pods/p"


def as_event(info):
    """Write a RequestInfo as request events do (streaming.md 8.2)."""
    return {
        "IsResourceRequest": info.is_resource,
        "Path": info.path,
        "Verb": info.verb,
        "APIPrefix": info.api_prefix,
        "APIGroup": info.api_group,
        "APIVersion": info.api_version,
        "Namespace": info.namespace,
        "Resource": info.resource,
        "Subresource": info.subresource,
        "Name": info.name,
        "Parts": list(info.parts) if info.parts is not None else None,
        "FieldSelector": info.field_selector,
        "LabelSelector": info.label_selector,
    }


class TestRequestInfo:
    @pytest.mark.parametrize(("request_line", "expected"), cases("requestinfo"))
    def test_golden(self, request_line, expected):
        method, target = (part.encode() for part in request_line)
        info = request_info(method, target)
        if expected == {"error": True}:
            # What the API server's rules reject is passed on as no resource.
            assert not info.is_resource
            assert info.parts is None
            assert info.verb == method.decode().lower()
        else:
            assert as_event(info) == expected

    @pytest.mark.parametrize(
        ("method", "verb"),
        [
            (b"POST", "create"),
            (b"GET", "list"),
            (b"HEAD", "list"),
            (b"PUT", "update"),
            (b"PATCH", "patch"),
            (b"DELETE", "deletecollection"),
            (b"get", ""),
        ],
    )
    def test_the_method_gives_the_verb(self, method, verb):
        assert request_info(method, b"/api/v1/pods").verb == verb

    @pytest.mark.parametrize(
        ("query", "name"),
        [
            ("fieldSelector=metadata.name%3D%3Da", "a"),
            ("fieldSelector=metadata.name=a", "a"),
            ("fieldSelector=spec.nodeName=n,metadata.name=a", "a"),
            ("fieldSelector=metadata.name=a%5C%2Cb", "a,b"),
            ("fieldSelector=metadata.name!=a", ""),
            ("fieldSelector=metadata.name=..", ""),
            ("fieldSelector=metadata.name=a%252Fb", ""),
            ("fieldSelector=metadata.name=a/b", ""),
            ("fieldSelector=metadata.name", ""),
            ("fieldSelector=metadata.name=a&labelSelector=app%20in%20(b,c)", "a"),
            ("fieldSelector=metadata.name=a&labelSelector=app%20in%20(b", ""),
            ("fieldSelector=metadata.name=a&timeoutSeconds=1s", ""),
            ("fieldSelector=metadata.name=a&limit=", ""),
            ("fieldSelector=metadata.name=a&limit=500", "a"),
            ("fieldSelector=metadata.name=a&fieldSelector=metadata.name=b", "a"),
            ("fieldselector=metadata.name=a", ""),
            ("fieldSelector=metadata.name=zo%C3%AB", "zo\u00eb"),
        ],
    )
    def test_a_list_of_one_name_has_it_if_all_options_can_be_read(self, query, name):
        info = request_info(b"GET", f"/api/v1/namespaces/d/pods?{query}".encode())
        assert (info.verb, info.name) == ("list", name)

    def test_a_watch_is_seen_though_other_options_cannot_be_read(self):
        assert request_info(b"GET", b"/api/v1/pods?limit=x&watch=1").verb == "watch"

    @pytest.mark.parametrize("query", ["watch=1;", "watch=%zz", "x=1;watch=1", "Watch=1"])
    def test_a_pair_that_does_not_parse_is_left_out(self, query):
        assert request_info(b"GET", f"/api/v1/pods?{query}".encode()).verb == "list"

    def test_a_plus_is_a_blank(self):
        info = request_info(b"GET", b"/api/v1/pods?labelSelector=a+in+(b)")
        assert info.label_selector == "a in (b)"

    def test_too_many_parameters_are_none(self):
        query = b"&".join([b"watch=1", *[b"x=1"] * 10_000])
        assert request_info(b"GET", b"/api/v1/pods?" + query).verb == "list"

    def test_a_namespace_without_more_is_the_resource(self):
        info = request_info(b"GET", b"/api/v1/namespaces")
        assert (info.verb, info.resource, info.namespace) == ("list", "namespaces", "")

    def test_a_group_needs_a_resource_behind_its_version(self):
        info = request_info(b"GET", b"/apis/apps/v1/")
        assert (info.is_resource, info.api_prefix) == (False, "apis")

    @pytest.mark.parametrize("target", [b"/", b"", b"/version", b"/api/v1", b"/x/y/z/w"])
    def test_other_paths_are_no_resource(self, target):
        info = request_info(b"DELETE", target)
        assert (info.is_resource, info.verb, info.parts) == (False, "delete", None)

    def test_a_long_target_is_read_like_a_short_one(self):
        name = "a" * 2000
        info = request_info(b"GET", f"/api/v1/nodes/{name}".encode())
        assert (info.resource, info.name) == ("nodes", name)

    @given(
        st.sampled_from([b"GET", b"POST", b"DELETE", b"WEIRD"]),
        st.lists(
            st.sampled_from(
                [
                    b"/", b"api", b"apis", b"v1", b"watch", b"proxy", b"namespaces", b"nodes",
                    b"pods", b"exec", b".", b"..", b"%", b"%2F", b"%zz", b"\xff", b"?", b"&", b"=",
                    b";", b"fieldSelector", b"metadata.name", b"\\", b"labelSelector", b"http://",
                ]
            ),
            max_size=20,
        ).map(b"".join),
    )  # fmt: skip
    def test_no_target_is_too_strange(self, method, target):
        info = request_info(method, target)
        assert info.is_resource == (info.parts is not None)
        assert session_kind(target) in {None, "exec", "attach", "portforward"}
        assert node_proxy(method, target, upgrade=False) in NodeProxy
        assert isinstance(is_discovery(method, target), bool)
        info.path.encode()  # it can be logged


class TestSessions:
    @pytest.mark.parametrize(("request_line", "expected"), cases("classify"))
    def test_golden(self, request_line, expected):
        method, target = (part.encode() for part in request_line)
        if node_proxy(method, target, upgrade=False) is NodeProxy.EXEC:
            kind = "node-exec"
        else:
            kind = session_kind(target) or "other"
        assert kind == expected

    @pytest.mark.parametrize(
        "target",
        [
            pytest.param(f"{POD}/exec?command=sh", id="dp_T1_T2"),
            pytest.param(f"{POD}/exec/", id="dp_T3_slash"),
            pytest.param("/api/v1/namespaces/d/pods/p%2Fexec", id="dp_T3_encoded"),
            pytest.param("/api%2Fv1/namespaces/d/pods/p/exec", id="dp_T3_prefix"),
            pytest.param(f"http://x{POD}/exec", id="dp_T3_absolute"),
            f"{POD}/exec//",
            f"{POD}/exec%2F%2F",
            "/api/v1/namespaces/d%2Fpods/p/exec",
            "/%61pi/v1/namespaces/d/pods/p/exec",
            f"{POD}//exec",
            f"{POD}/./exec",
            f"{POD}/x/../exec",
            f"{POD}/x/%2e%2e/exec",
            f"/{POD}/exec",
            f"/%2F{POD}/exec",
            f"/..{POD}/exec",
        ],
    )
    def test_whatever_could_run_as_exec_is_exec(self, target):
        assert session_kind(target.encode()) == "exec"

    @pytest.mark.parametrize(
        "target",
        [
            f"{POD}/exec/x",
            f"{POD}/exec;x",
            f"{POD}/EXEC",
            "/API/v1/namespaces/d/pods/p/exec",
            "/api/v1/namespaces/d/pods/p%252Fexec",
            f"{POD}?x=/exec",
            f"{POD}%3F/exec/x",
            f"{POD}/log",
            "/api/v1/pods/p/exec",
            "/apis/v1/namespaces/d/pods/p/exec",
            "/",
            "",
        ],
    )
    def test_other_paths_are_no_session(self, target):
        assert session_kind(target.encode()) is None

    @given(st.data())
    def test_no_encoding_hides_a_session(self, data):
        path = f"{POD}/attach"[1:]
        hidden = "".join(f"%{ord(each):02x}" if data.draw(st.booleans()) else each for each in path)
        assert session_kind(f"/{hidden}".encode()) == "attach"


class TestNodeProxy:
    @pytest.mark.parametrize(
        ("method", "rest", "upgrade", "verdict"),
        [
            ("POST", "/run/ns/p/c?cmd=id", False, NodeProxy.EXEC),
            ("GET", "/run/ns/p/c", False, NodeProxy.EXEC),
            ("HEAD", "/portForward/ns/p", False, NodeProxy.EXEC),
            ("GET", "//cri/exec/token", False, NodeProxy.EXEC),
            ("GET", "/x/../attach/ns/p/c", False, NodeProxy.EXEC),
            ("GET", "/x/%2e%2e/attach/ns/p/c", False, NodeProxy.EXEC),
            ("GET", "/run%2Fns/p/c", False, NodeProxy.EXEC),
            ("GET", "%2Frun/ns/p/c", False, NodeProxy.EXEC),
            ("GET", "/../../../nodes/n/proxy/exec/a", False, NodeProxy.EXEC),
            ("GET", "/pods", True, NodeProxy.EXEC),
            ("DELETE", "/pods", False, NodeProxy.EXEC),
            ("PUT", "", False, NodeProxy.EXEC),
            ("GET", "/pods", False, NodeProxy.READ),
            ("GET", "/runningpods/", False, NodeProxy.READ),
            ("HEAD", "/containerLogs/ns/p/c?follow=true", False, NodeProxy.READ),
            ("GET", "", False, NodeProxy.READ),
            ("GET", "/stats/exec", False, NodeProxy.READ),
        ],
    )
    @pytest.mark.parametrize("node", ["n", "n:10250", "https:n:10250"])
    def test_what_could_run_a_command_is_told_from_reading(
        self, method, rest, upgrade, verdict, node
    ):
        target = f"/api/v1/nodes/{node}/proxy{rest}".encode()
        assert node_proxy(method.encode(), target, upgrade) is verdict

    @pytest.mark.parametrize(
        "target",
        [
            "/api/v1/nodes/n%2Fproxy/run/a",
            "/api/v1//nodes/n/proxy/run/a",
            "/api/v1/nodes//proxy/run/a",
            "//api/v1/nodes/n/proxy/run/a",
        ],
    )
    def test_an_odd_path_is_no_way_around(self, target):
        assert node_proxy(b"GET", target.encode(), upgrade=False) is NodeProxy.EXEC

    @pytest.mark.parametrize(
        "target",
        [
            "/api/v1/nodes/n",
            "/api/v1/nodes/n/status",
            "/api/v1/namespaces/d/pods/p/proxy/exec/x",
            "/api/v1/namespaces/d/services/s/proxy/run",
        ],
    )
    def test_workloads_and_node_objects_are_not_the_kubelet(self, target):
        assert node_proxy(b"POST", target.encode(), upgrade=True) is NodeProxy.NONE


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/api", True),
        ("GET", "/apis", True),
        ("GET", "/api/v1?timeout=32s", True),
        ("GET", "/apis/apps", True),
        ("GET", "/apis/apps/v1/", True),
        ("GET", "/version", True),
        ("GET", "/openapi/v2", True),
        ("GET", "/openapi/v3/apis/apps/v1?hash=x", True),
        ("POST", "/apis", False),
        ("GET", "/", False),
        ("GET", "/api/v1/pods", False),
        ("GET", "/apis/apps/v1/deployments", False),
        ("GET", "/version/x", False),
        ("GET", "/healthz", False),
    ],
)
def test_discovery_is_known_by_its_paths(method, target, expected):
    assert is_discovery(method.encode(), target.encode()) is expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/api/v1/pods?watch=1", True),
        ("/api/v1/watch/pods", True),
        (f"{POD}/log?follow=true", True),
        (f"{POD}/exec", True),
        (f"{POD}/attach", True),
        (f"{POD}/portforward", True),
        ("/api/v1/namespaces/d/services/s/proxy/x", True),
        ("/api/v1/pods", False),
        (f"{POD}/status", False),
        ("/watch", False),
    ],
)
def test_what_may_last_is_known(target, expected):
    assert is_long_running(request_info(b"GET", target.encode())) is expected


@pytest.mark.parametrize(("values", "expected"), cases("bool"))
def test_query_booleans_follow_the_api_server(values, expected):
    assert boolean(values) is expected


@given(st.text(), st.binary())
def test_a_path_is_decoded_once(text, junk):
    info = request_info(b"GET", b"/" + quote(text, safe="").encode())
    assert info.path == "/" + text
    request_info(b"GET", b"/" + junk).path.encode()
