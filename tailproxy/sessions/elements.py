"""The pages as HTML. What others chose is escaped by Twisted's templates."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from twisted.web.template import Element, XMLString, renderer, tags

from tailproxy.policy.grants import SessionRight
from tailproxy.recordings import RecordingState
from tailproxy.sessions.form import TEXTS, length, moment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from twisted.web.server import Request
    from twisted.web.template import Tag

    from tailproxy.errors import ApiError
    from tailproxy.recordings import Recording, RecordingPage

_FILES = resources.files("tailproxy.sessions")
_STATES = {
    RecordingState.LIVE: ("runs", "live"),
    RecordingState.COMPLETE: ("complete", ""),
    RecordingState.INTERRUPTED: ("interrupted", "broken"),
    RecordingState.DAMAGED: ("damaged", "broken"),
}
_LABELS = {"text": "Anything", "since": "Since (UTC)", "until": "Before (UTC)"}


def _loader(name: str) -> XMLString:
    return XMLString((_FILES / name).read_text(encoding="utf-8"))


class ListPage(Element):
    """Recordings that were found, and a form to find others.

    :param who: looks at it.
    :param page: what was found.
    :param said: the search, by the names of its fields.
    """

    loader = _loader("list.html")

    def __init__(self, who: str, page: RecordingPage, said: Mapping[str, str]) -> None:
        super().__init__()
        self._who = who
        self._page = page
        self._said = said

    @renderer
    def whole(self, request: Request, tag: Tag) -> Tag:
        """What stands once."""
        return tag.fillSlots(who=self._who)

    @renderer
    def field(self, request: Request, tag: Tag) -> Iterator[Tag]:
        """One field of the form."""
        for name in (*TEXTS, "since", "until"):
            yield tag.clone().fillSlots(
                name=name,
                label=_LABELS.get(name, name.capitalize()),
                type="text" if name in TEXTS else "datetime-local",
                value=self._said.get(name, "").removesuffix("Z"),
            )

    @renderer
    def states(self, request: Request, tag: Tag) -> Tag:
        """The states to choose from."""
        tag(tags.option("any", value=""))
        for state, (words, _) in _STATES.items():
            chosen = {"selected": "selected"} if self._said.get("state") == state.value else {}
            tag(tags.option(words, value=state.value, **chosen))
        return tag

    @renderer
    def none(self, request: Request, tag: Tag) -> Tag | str:
        """Only if nothing was found."""
        return "" if self._page.recordings else tag

    @renderer
    def some(self, request: Request, tag: Tag) -> Tag | str:
        """Only if something was."""
        return tag if self._page.recordings else ""

    @renderer
    def row(self, request: Request, tag: Tag) -> Iterator[Tag]:
        """One recording."""
        for each in self._page.recordings:
            words, kind = _STATES[each.state]
            yield tag.clone().fillSlots(
                id=each.id,
                start=moment(each.start).replace("T", " ").removesuffix("Z"),
                length=_length(each),
                user=who(each),
                where=where(each),
                command=each.command or each.kind,
                state=words if each.exit_code is None else f"{words}, exit {each.exit_code}",
                **{"class": kind},
            )

    @renderer
    def more(self, request: Request, tag: Tag) -> Tag | str:
        """Only if there are others."""
        if not self._page.more:
            return ""
        last = self._page.recordings[-1].id
        return tag.fillSlots(earlier=f"./?{urlencode({**self._said, 'after': last})}")


class RecordingPageElement(Element):
    """One recording, and the player.

    :param rights: of who looks at it.
    """

    loader = _loader("recording.html")

    def __init__(self, recording: Recording, rights: frozenset[SessionRight]) -> None:
        super().__init__()
        self._recording = recording
        self._rights = rights

    @property
    def _unseen(self) -> str:
        """Why it cannot be seen here; empty if it can."""
        if SessionRight.PLAY not in self._rights:
            return (
                "No grant of the tailnet's policy lets you see what was on the screen: "
                "ask its administrator for the right to play sessions of this namespace."
            )
        if self._recording.encrypted:
            return (
                "It is kept encrypted, so it can be seen only by who has the key: download it, "
                "decrypt it with age, and play the file with tailproxy play."
            )
        return ""

    @renderer
    def whole(self, request: Request, tag: Tag) -> Tag:
        """What stands once."""
        each = self._recording
        running = each.state is RecordingState.LIVE
        return tag.fillSlots(
            title=f"{who(each)} in {where(each)}",
            label="A session that runs" if running else "A session",
            command=each.command or each.kind,
            cast=f"{each.id}/cast",
            live=f"{each.id}/live",
            state=each.state.value,
        )

    @renderer
    def screen(self, request: Request, tag: Tag) -> Tag | str:
        """Only for who may see it."""
        return "" if self._unseen else tag

    @renderer
    def unseen(self, request: Request, tag: Tag) -> Tag | str:
        """For the others."""
        return tag if self._unseen else ""

    @renderer
    def reason(self, request: Request, tag: Tag) -> Tag:
        """Why not."""
        return tag(self._unseen)

    @renderer
    def fact(self, request: Request, tag: Tag) -> Iterator[Tag]:
        """What is known of it."""
        for name, value in _facts(self._recording):
            if value:
                yield tag.clone().fillSlots(name=name, value=value)

    @renderer
    def download(self, request: Request, tag: Tag) -> Tag | str:
        """The file."""
        if SessionRight.PLAY not in self._rights:
            return ""
        return tag(href=f"{self._recording.id}/cast", download=file_name(self._recording))

    @renderer
    def ending(self, request: Request, tag: Tag) -> Tag | str:
        """Only for a session that runs, and who may end it."""
        live = self._recording.state is RecordingState.LIVE
        if not live or SessionRight.KILL not in self._rights:
            return ""
        return tag(action=f"{self._recording.id}/end")


class ProblemPage(Element):
    """Why there is no page.

    :param root: URL of the list, absolute or relative.
    """

    loader = _loader("problem.html")

    def __init__(self, error: ApiError, root: str) -> None:
        super().__init__()
        self._error = error
        self._root = root

    @renderer
    def whole(self, request: Request, tag: Tag) -> Tag:
        """Everything."""
        return tag.fillSlots(
            root=self._root, code=str(self._error.code), message=self._error.message
        )


def who(recording: Recording) -> str:
    """Who had the session, in a word."""
    return recording.user or " ".join(recording.tags) or recording.node or recording.node_id


def where(recording: Recording) -> str:
    """Where, in a word."""
    return "/".join(filter(None, (recording.namespace, recording.pod, recording.container)))


def file_name(recording: Recording) -> str:
    """What a recording is called as a file."""
    return f"{recording.id}.cast.age" if recording.encrypted else f"{recording.id}.cast"


def _length(recording: Recording) -> str:
    """Nothing while it runs: nobody has counted yet."""
    return "" if recording.state is RecordingState.LIVE else length(recording.duration)


def _facts(recording: Recording) -> Iterator[tuple[str, str]]:
    words, _ = _STATES[recording.state]
    code = recording.exit_code
    yield "Who", who(recording)
    yield "Node", recording.node
    yield "Where", where(recording)
    yield "Kind", recording.kind
    yield "Began", moment(recording.start)
    yield "Length", _length(recording)
    yield "State", f"{words}: {recording.detail}" if recording.detail else words
    yield "Exit code", "" if code is None else str(code)
    yield "Terminal", f"{recording.width}x{recording.height}" if recording.width else "none"
    yield "Recorded by", recording.proxy
    yield "Request", recording.session
    yield "ID", recording.id
