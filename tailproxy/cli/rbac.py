"""`tailproxy rbac`: the manifest of an account that may impersonate, and nothing else."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import click
import yaml

from tailproxy.policy.rights import VERBS, Rights, groups_of_policy, manifests
from tailproxy.wire import hujson

if TYPE_CHECKING:
    from collections.abc import Iterable


def _names(value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name for each in value.split(",") if (name := each.strip())))
    if not names:
        raise click.BadParameter("wanted names, separated by commas")
    return names


def _verbs(value: str) -> tuple[str, ...]:
    verbs = _names(value)
    for verb in verbs:
        if verb not in VERBS:
            raise click.BadParameter(f"found {verb!r}, wanted some of {', '.join(VERBS)}")
    return verbs


def _account(value: str) -> tuple[str, str]:
    namespace, slash, name = value.partition("/")
    if not (slash and namespace and name):
        raise click.BadParameter(f"found {value!r}, wanted NAMESPACE/NAME")
    return namespace, name


@click.command()
@click.option(
    "--users", type=_names, metavar="A,B", help="Users it may impersonate. [default: any]"
)
@click.option(
    "--groups", type=_names, metavar="X,Y", help="Groups it may impersonate. [default: any]"
)
@click.option(
    "--policy",
    type=click.File(encoding="utf-8"),
    help="The tailnet's policy file: the groups that its grants name, and its tags, are those it"
    " may impersonate, beside --groups.",
)
@click.option(
    "--constrained",
    is_flag=True,
    help="Constrained impersonation (Kubernetes 1.36): never as system:masters, a node or a"
    " service account.",
)
@click.option(
    "--verbs",
    type=_verbs,
    default=",".join(VERBS),
    metavar="V,W",
    help="What may be done when impersonating, for --constrained, such as get,list,watch."
    " [default: everything]",
)
@click.option(
    "--account",
    type=_account,
    default="tailproxy/tailproxy",
    show_default=True,
    metavar="NAMESPACE/NAME",
    help="The service account.",
)
def rbac(
    users: tuple[str, ...] | None,
    groups: tuple[str, ...] | None,
    policy: IO[str] | None,
    constrained: bool,
    verbs: tuple[str, ...],
    account: tuple[str, str],
) -> None:
    """Print a manifest: tailproxy's service account and its rights.

    Send it to kubectl apply -f -. The account may impersonate, which is all that tailproxy does
    with it; name groups, or a policy, and it can become nobody else.
    """
    if verbs != VERBS and not constrained:
        raise click.UsageError("--verbs goes with --constrained")
    if policy is not None:
        groups = tuple(dict.fromkeys((*(groups or ()), *_groups(policy))))
        if not groups:
            raise click.ClickException(f"{policy.name}: no grant in it names a group, and no tag")
    documents = manifests(Rights(users, groups, constrained, verbs), *account)
    click.echo(_yaml(documents), nl=False)


def _groups(file: IO[str]) -> Iterable[str]:
    try:
        return groups_of_policy(hujson.parse(file.read()).plain())
    except hujson.HuJSONError as error:
        place = f"{file.name}:{error.line}:{error.column}"
        raise click.ClickException(f"{place}: {error.message}") from error
    except ValueError as error:
        raise click.ClickException(f"{file.name}: {error}") from error


def _yaml(documents: Iterable[object]) -> str:
    return str(yaml.safe_dump_all(documents, sort_keys=False, explicit_start=True))
