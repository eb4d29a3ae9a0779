"""What tailproxy's own account may do: impersonate, and nothing else.

Three forms, each narrower than the one before: any user and any group; those with given names;
and the constrained impersonation of Kubernetes 1.36 (KEP-5284), which never gives system:masters,
nodes or service accounts, and only for given verbs. Here they become RBAC rules, and the rules that
an account has become one of them again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from tailproxy.policy.grants import CAPABILITY, read_rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    # A rule of RBAC, or an object of Kubernetes, as JSON knows it.
    Json = Mapping[str, Any]

#: The verbs of requests for resources (Kubernetes documentation, Authorization).
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
# The verbs of other requests, such as /version, are their methods.
_METHODS = ("get", "head", "options", "post", "put", "patch", "delete")
# API group and verb, by whether impersonation is constrained.
_WAYS = {False: ("", "impersonate"), True: ("authentication.k8s.io", "impersonate:user-info")}
_CONSTRAINED_ON = "impersonate-on:user-info:"


@attrs.frozen
class Rights:
    """Whom an account may impersonate.

    :ivar users: their names; None for any.
    :ivar groups: their names; None for any.
    :ivar constrained: whether by constrained impersonation.
    :ivar verbs: what may be done that way; heeded for constrained impersonation alone.
    """

    users: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    constrained: bool = False
    verbs: tuple[str, ...] = VERBS

    def rules(self) -> list[Json]:
        """The rules of a ClusterRole with these rights."""
        group, verb = _WAYS[self.constrained]
        found: list[Json] = []
        if self.users is None and self.groups is None:
            found.append({"apiGroups": [group], "resources": ["users", "groups"], "verbs": [verb]})
        else:
            for resource, names in (("users", self.users), ("groups", self.groups)):
                rule = {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
                found.append(rule if names is None else {**rule, "resourceNames": list(names)})
        if self.constrained:
            on = [f"{_CONSTRAINED_ON}{each}" for each in self.verbs]
            found.append({"apiGroups": ["*"], "resources": ["*"], "verbs": on})
            on = [f"{_CONSTRAINED_ON}{each}" for each in _METHODS if each in self._methods]
            if on:
                found.append({"nonResourceURLs": ["*"], "verbs": on})
        return found

    @property
    def _methods(self) -> tuple[str, ...]:
        return _METHODS if self.verbs == VERBS else self.verbs

    def __str__(self) -> str:
        """Such as `any user and 3 groups`."""
        users, groups = _count(self.users, "user"), _count(self.groups, "group")
        return f"{users} and {groups}{', constrained' if self.constrained else ''}"


def _count(names: tuple[str, ...] | None, what: str) -> str:
    if names is None:
        return f"any {what}"
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"


def manifests(rights: Rights, namespace: str, account: str) -> list[Json]:
    """The objects that give an account these rights, the account itself included.

    :param namespace: of the account.
    :param account: name of the service account.
    """
    role = f"{account}-impersonator"
    rbac = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": account, "namespace": namespace},
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": role},
            "rules": rights.rules(),
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        },
    ]


def groups_of_policy(policy: Json) -> tuple[str, ...]:
    """The groups that a tailnet's policy can make tailproxy impersonate, each once.

    Those that its grants name, and its tags, which are the groups of tagged nodes.

    :param policy: the policy file's content.
    :raises ValueError: it is none, or a grant's rules cannot be read.
    """
    found: dict[str, None] = {}
    for grant in _of(list, policy, "grants"):
        capabilities = _of(dict, grant, "app")
        rules = {CAPABILITY: capabilities.get(CAPABILITY)}
        found |= dict.fromkeys(read_rules(rules).groups)
    return tuple(found | dict.fromkeys(_of(dict, policy, "tagOwners")))


def _of(kind: type, value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"the policy, or a grant of it, is no object with {key}")  # noqa: TRY004
    inner = value.get(key)
    if inner is None:
        return kind()
    if not isinstance(inner, kind):
        raise ValueError(f"{key} is not {'a list' if kind is list else 'an object'}")  # noqa: TRY004
    return inner


def held(rules: Iterable[Json]) -> Rights | None:
    """The rights to impersonate that are in a list of rules; None if they lead nowhere.

    Both users and groups are wanted, in one of the two ways, since the API server goes one way
    for the whole of a request.

    :param rules: as in a SelfSubjectRulesReview: `status.resourceRules`.
    """
    rules = list(rules)
    for constrained in (False, True):
        group, verb = _WAYS[constrained]
        fitting = [rule for rule in rules if _has(rule, "apiGroups", group)]
        fitting = [rule for rule in fitting if _has(rule, "verbs", verb)]
        users, groups = (_names(fitting, resource) for resource in ("users", "groups"))
        verbs = _verbs(rules) if constrained else VERBS
        if users != () and groups != () and verbs:
            return Rights(users, groups, constrained, verbs)
    return None


def _has(rule: Json, key: str, wanted: str) -> bool:
    return bool({wanted, "*"} & set(rule.get(key) or ()))


def _names(rules: Iterable[Json], resource: str) -> tuple[str, ...] | None:
    """The names of that resource that the rules are about; None for any, () for none."""
    found: dict[str, None] = {}
    for rule in rules:
        if _has(rule, "resources", resource):
            names = rule.get("resourceNames")
            if not names:
                return None
            found |= dict.fromkeys(names)
    return tuple(found)


def _verbs(rules: Iterable[Json]) -> tuple[str, ...]:
    return tuple(
        verb for verb in VERBS if any(_has(rule, "verbs", _CONSTRAINED_ON + verb) for rule in rules)
    )
