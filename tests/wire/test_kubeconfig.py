"""What becomes of a kubeconfig: the golden cases, and what else people have in theirs."""

from __future__ import annotations

import json

import pytest
import yaml

from tailproxy.wire.kubeconfig import Entry, KubeconfigError, add, remove

NAME = "kube-prod.corp-cat.ts.net"
ENTRY = Entry(f"https://{NAME}", NAME, NAME)
FRESH = f"""\
apiVersion: v1
clusters:
- cluster:
    server: https://{NAME}
  name: {NAME}
contexts:
- context:
    cluster: {NAME}
    user: tailscale-auth
  name: {NAME}
current-context: {NAME}
kind: Config
users:
- name: tailscale-auth
  user:
    token: unused
"""
LAB = """\
# of the lab
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: QUJD
    server: https://10.0.0.1:6443
  name: lab
contexts:
- context:
    cluster: lab
    user: bob
  name: lab
current-context: lab # the usual one
kind: Config
preferences: {}
users:
- name: bob
  user:
    token: secret
"""
HEAD = "apiVersion: v1\nkind: Config\n"


def entries(text: str, key: str) -> dict:
    inner = {"clusters": "cluster", "contexts": "context", "users": "user"}[key]
    return {each["name"]: each[inner] for each in yaml.safe_load(text)[key]}


def put(text: str, **fields) -> str:
    values = {"server": ENTRY.server, "cluster": NAME, "context": NAME, **fields}
    return add(text, Entry(**values)).text


class TestGolden:
    """spec/dataplane.md 10.6; K5 and K6 as design.md section 7 decides."""

    def test_dp_K1_an_empty_file_gets_sorted_keys(self):
        assert put("") == FRESH

    def test_dp_K2_http_is_in_the_server_alone(self):
        assert put("", server=f"http://{NAME}") == FRESH.replace("https://", "http://")

    def test_dp_K3_other_entries_stay_first_and_ours_are_appended(self):
        assert put(LAB) == LAB.replace(
            "  name: lab\ncontexts:",
            f"  name: lab\n- cluster:\n    server: https://{NAME}\n  name: {NAME}\ncontexts:",
        ).replace(
            "  name: lab\ncurrent-context: lab #",
            f"  name: lab\n- context:\n    cluster: {NAME}\n    user: tailscale-auth\n"
            f"  name: {NAME}\ncurrent-context: {NAME} #",
        ) + ("- name: tailscale-auth\n  user:\n    token: unused\n")

    @pytest.mark.parametrize("text", ["", LAB, json.dumps(yaml.safe_load(LAB))])
    def test_dp_K4_the_second_time_changes_nothing(self, text):
        once = put(text)
        again = add(once, ENTRY)
        assert (again.text, again.changes) == (once, ())

    def test_dp_K5_another_servers_certificate_is_dropped_in_place(self):
        old = put(LAB).replace(
            f"    server: https://{NAME}",
            "    certificate-authority-data: QUJD\n    server: https://old.example.com",
        )
        assert put(old) == put(LAB)

    def test_dp_K6_our_users_token_becomes_the_one_that_means_nothing(self):
        assert put(FRESH.replace("unused", "keepme")) == FRESH

    def test_dp_K7_lists_that_are_null_begin_empty(self):
        assert yaml.safe_load(
            put(f"{HEAD}clusters: null\nusers: null\ncontexts: null\n")
        ) == yaml.safe_load(FRESH)

    def test_dp_K8_what_is_no_list_is_replaced_and_told(self):
        made = add(f"{HEAD}clusters: {{a: b}}\npreferences: {{colors: true}}\n", ENTRY)
        expected = yaml.safe_load(FRESH) | {"preferences": {"colors": True}}
        assert yaml.safe_load(made.text) == expected
        assert "replaced clusters, which was no list" in made.changes

    @pytest.mark.parametrize(
        "text",
        [
            "apiVersion: v1\nkind: Pod\n",
            "{}",
            "[]",
            "- a",
            "text",
            "apiVersion: v1\nkind: [",
            "\tx",
        ],
    )
    def test_dp_K9_what_is_no_kubeconfig_is_refused(self, text):
        with pytest.raises(KubeconfigError, match="invalid kubeconfig"):
            add(text, ENTRY)

    @pytest.mark.parametrize("text", ["# mine\n", "# mine", "\n# mine\n\n", "---\n# mine\n"])
    def test_dp_K10_a_comment_alone_stays_in_front(self, text):
        assert put(text) == text + ("" if text.endswith("\n") else "\n") + FRESH


class TestOwnEntry:
    CLUSTER = f"""{HEAD}clusters:
- name: {NAME}
  cluster:
    server: {{server}}
    # why we trust it
    certificate-authority: /etc/ca.crt
    tls-server-name: kube
    insecure-skip-tls-verify: false
    extensions:
    - name: client.example.com/info
      extension: {{{{a: 1}}}}
    proxy-url: socks5://localhost:1055
"""

    def test_another_server_leaves_all_but_its_certificates_fields(self):
        made = add(self.CLUSTER.format(server="https://old"), ENTRY)
        assert entries(made.text, "clusters")[NAME] == {
            "server": ENTRY.server,
            "extensions": [{"name": "client.example.com/info", "extension": {"a": 1}}],
            "proxy-url": "socks5://localhost:1055",
        }
        assert "    # why we trust it\n    extensions:\n" in made.text
        assert made.changes[0] == (
            f"changed cluster {NAME!r}: server {ENTRY.server}; dropped certificate-authority, "
            "tls-server-name, insecure-skip-tls-verify"
        )

    def test_the_same_server_keeps_its_certificates_fields(self):
        text = self.CLUSTER.format(server=ENTRY.server)
        assert put(text).startswith(text)

    def test_certificates_that_are_given_replace_others(self):
        made = put(self.CLUSTER.format(server=ENTRY.server), authority="QUJD")
        assert entries(made, "clusters")[NAME] == {
            "server": ENTRY.server,
            "certificate-authority-data": "QUJD",
            "tls-server-name": "kube",
            "extensions": [{"name": "client.example.com/info", "extension": {"a": 1}}],
            "proxy-url": "socks5://localhost:1055",
        }

    def test_a_contexts_namespace_stays_unless_another_is_asked_for(self):
        text = put("", namespace="team")
        assert put(text) == text
        assert entries(text, "contexts")[NAME]["namespace"] == "team"
        assert put(text, namespace="other") == text.replace("team", "other")

    def test_new_fields_go_to_their_place_in_the_alphabet(self):
        assert put(FRESH, namespace="team", authority="QUJD") == FRESH.replace(
            "    server:", "    certificate-authority-data: QUJD\n    server:"
        ).replace("    user: ", "    namespace: team\n    user: ")

    @pytest.mark.parametrize("own", ["null", "{}", "''", "", "[]", "text"])
    def test_an_entry_without_content_gets_it(self, own):
        text = f"{HEAD}clusters:\n- name: {NAME}\n  cluster: {own}\n  other: 1 # mine\n"
        made = put(text)
        assert entries(made, "clusters") == {NAME: {"server": ENTRY.server}}
        assert "\n  other: 1 # mine\n" in made

    def test_an_entry_in_braces_gets_a_neighbour_in_braces(self):
        text = f"{HEAD}clusters:\n  - {{name: a, cluster: {{server: b}}}}\n"
        line = f"  - {{name: {NAME}, cluster: {{server: {ENTRY.server}}}}}\n"
        assert put(text).startswith(text + line)

    def test_a_list_with_an_anchor_is_a_list(self):
        text = f"{HEAD}clusters: &all\n  - name: a\n    cluster: {{server: b}}\n"
        lines = f"  - name: {NAME}\n    cluster:\n      server: {ENTRY.server}\n"
        assert put(text).startswith(text + lines)

    def test_a_user_in_braces_may_lose_all_it_has(self):
        text = f"{HEAD}users: [{{name: tailscale-auth, user: {{exec: {{command: a}}}}}}]\n"
        assert "users: [{name: tailscale-auth, user: {token: unused}}]\n" in put(text)

    @pytest.mark.parametrize("indent", [None, 2])
    def test_json_without_content_stays_json(self, indent):
        config = {"apiVersion": "v1", "kind": "Config", "clusters": [{"name": NAME, "cluster": {}}]}
        made = put(json.dumps(config, indent=indent))
        config["clusters"][0]["cluster"]["server"] = ENTRY.server
        assert made.startswith(json.dumps(config, indent=indent).rstrip("\n}"))
        assert json.loads(made)["clusters"] == config["clusters"]

    def test_an_entry_that_is_a_name_alone_gets_its_content(self):
        text = f"{HEAD}clusters:\n  - name: {NAME}\n"
        assert f"  - name: {NAME}\n    cluster:\n      server: {ENTRY.server}\n" in put(text)

    def test_a_value_in_quotes_stays_in_quotes(self):
        text = FRESH.replace(f"https://{NAME}", '"https://old" # here')
        assert put(text) == FRESH.replace(f"https://{NAME}", f'"https://{NAME}" # here')

    def test_other_names_are_other_entries(self):
        made = put(FRESH, cluster="c", user="u", context="x", namespace="n")
        assert entries(made, "clusters")["c"] == {"server": ENTRY.server}
        assert entries(made, "users")["u"] == {"token": "unused"}
        assert entries(made, "contexts")["x"] == {"cluster": "c", "user": "u", "namespace": "n"}
        assert yaml.safe_load(made)["current-context"] == "x"
        assert set(entries(made, "clusters")) == {NAME, "c"}

    @pytest.mark.parametrize("text", ["", FRESH.replace(f"current-context: {NAME}\n", ""), LAB])
    def test_the_current_context_may_stay(self, text):
        before = (yaml.safe_load(text) or {}).get("current-context")
        assert yaml.safe_load(put(text, current=False)).get("current-context") == before

    @pytest.mark.parametrize("name", ["123", "yes", "n", "a b", "1e3", "it's", "#a", "ä", "null"])
    def test_any_name_is_text_to_every_reader(self, name):
        made = put(LAB, context=name)
        assert name in entries(made, "contexts")
        plain = f"name: {name}\n" in made
        assert plain is False

    def test_an_entry_that_comes_twice_is_changed_where_it_counts(self):
        twice = f"- {{name: {NAME}, cluster: {{server: a}}}}\n"
        made = put(f"{HEAD}clusters:\n{twice}{twice}")
        assert f"- {{name: {NAME}, cluster: {{server: {ENTRY.server}}}}}\n{twice}" in made


class TestUsers:
    def test_other_credentials_of_our_user_are_dropped(self):
        text = FRESH.replace("    token: unused\n", "    exec: {command: a}\n    as: me\n")
        made = add(text, ENTRY)
        assert entries(made.text, "users") == {"tailscale-auth": {"token": "unused", "as": "me"}}
        assert made.changes == ("changed user 'tailscale-auth': token; dropped exec",)

    def test_a_token_is_not_told(self):
        made = add(FRESH.replace("unused", "keepme"), ENTRY)
        assert made.changes == ("changed user 'tailscale-auth': token",)

    def test_another_users_credentials_are_not_replaced(self):
        with pytest.raises(
            KubeconfigError, match=r"'bob' has .* of its own \(token\).*--keep-user"
        ):
            put(LAB, user="bob")

    def test_a_user_that_is_kept_is_not_touched(self):
        made = put(LAB, user="bob", keep_user=True)
        assert entries(made, "users") == {"bob": {"token": "secret"}}
        assert entries(made, "contexts")[NAME] == {"cluster": NAME, "user": "bob"}


class TestRemoval:
    USER = "- name: tailscale-auth\n  user:\n    token: unused\n"

    def test_what_was_added_is_taken_out_and_the_user_stays(self):
        made = remove(put(LAB), NAME, NAME)
        assert made.text == LAB.replace("current-context: lab", "current-context: ''") + self.USER
        assert made.changes == (
            f"removed context {NAME!r}",
            f"removed cluster {NAME!r}",
            f"current-context is unset (was {NAME!r})",
        )

    def test_a_context_that_is_current_otherwise_stays_so(self):
        assert remove(put(LAB, current=False), NAME, NAME).text == LAB + self.USER

    def test_a_cluster_that_another_context_uses_stays(self):
        text = put(put(LAB), context="other")
        made = remove(text, NAME, NAME)
        assert made.changes == (f"removed context {NAME!r}",)
        assert set(entries(made.text, "clusters")) == {"lab", NAME}

    def test_the_only_entries_leave_empty_lists(self):
        made = remove(FRESH, NAME, NAME).text
        assert yaml.safe_load(made)["clusters"] == []
        assert yaml.safe_load(made)["contexts"] == []
        assert put(made) == FRESH.replace(f"current-context: {NAME}", f"current-context: '{NAME}'")

    def test_json_stays_json(self):
        before = json.dumps(yaml.safe_load(LAB), indent=2)
        made = json.loads(remove(put(before, current=False), NAME, NAME).text)
        made["users"].pop()
        assert made == json.loads(before)

    @pytest.mark.parametrize("text", ["", "# mine\n", LAB])
    def test_what_is_not_there_changes_nothing(self, text):
        made = remove(text, NAME, NAME)
        assert (made.text, made.changes) == (text, ())


class TestAliases:
    """What would change other entries too is refused, and nothing is written."""

    @pytest.mark.parametrize(
        "clusters",
        [
            f"- name: {NAME}\n  cluster: *base\n",
            f"- name: {NAME}\n  cluster:\n    <<: *base\n    server: b\n",
            f"- <<: *base\n  name: {NAME}\n  cluster: {{server: b}}\n",
            f"- name: {NAME}\n  cluster: {{server: &s b}}\n- name: x\n  cluster: {{server: *s}}\n",
            f"- &e {{name: {NAME}, cluster: {{server: b}}}}\n- *e\n",
            f"- <<: {{name: {NAME}}}\n  cluster: {{server: b}}\n",
            f"- <<: [*base, {{name: {NAME}}}]\n  cluster: {{server: b}}\n",
            f"- name: {NAME}\n  cluster: &c {{server: b}}\n- name: x\n  cluster: *c\n",
        ],
    )
    def test_an_entry_that_others_share_is_refused(self, clusters):
        text = f"{HEAD}base: &base {{server: a, tls-server-name: x}}\nclusters:\n{clusters}"
        with pytest.raises(KubeconfigError, match=r"alias \(\*NAME\)|cannot be changed"):
            add(text, ENTRY)

    def test_a_list_that_is_an_alias_is_refused(self):
        with pytest.raises(KubeconfigError, match="clusters is an alias"):
            add(f"{HEAD}base: &base [{{name: a}}]\nclusters: *base\n", ENTRY)

    def test_lists_that_are_merged_into_the_file_are_not_hidden(self):
        text = f"{HEAD}x: &x {{clusters: [{{name: a, cluster: {{server: b}}}}]}}\n<<: *x\n"
        with pytest.raises(KubeconfigError, match=r"line 1 takes over an entry by .* a merge"):
            add(text, ENTRY)

    def test_a_style_that_nobody_can_go_on_with_is_refused(self):
        with pytest.raises(KubeconfigError, match=r"cannot be changed \(line 3: the list"):
            add(f"{HEAD}clusters: &a\n-\n  name: x\n", ENTRY)

    def test_aliases_of_other_entries_stay(self):
        text = (
            f"{HEAD}clusters:\n- &a\n  name: a\n  cluster: &c {{server: a}}\n"
            "- name: b\n  cluster: *c\n- <<: *a\n  name: d\n"
        )
        assert put(text).startswith(text)

    def test_a_file_that_unfolds_to_too_much_is_refused(self):
        levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 12))
        with pytest.raises(KubeconfigError, match="unfold to too much"):
            add(f"{HEAD}l0: &l0 [a]\n{levels}", ENTRY)
