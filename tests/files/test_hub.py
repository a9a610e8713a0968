"""The Hub is asked once whether it is there, and its absence is told at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import huggingface_hub
import pytest
import tiny
from huggingface_hub import constants

from kebench.errors import NotFound
from kebench.files import hub
from kebench.models.load import load_model


class Session:
    """Stands in for the client's HTTP session."""

    def __init__(self, answer: Callable[[], None]) -> None:
        self.answer, self.asked = answer, 0

    def head(self, *_: Any, **__: Any) -> None:
        self.asked += 1
        self.answer()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], None]], Session]]:
    def set_up(answer: Callable[[], None]) -> Session:
        session = Session(answer)
        monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "PATIENCE_SECONDS", 0.05)
        hub.only_cached.cache_clear()
        return session

    yield set_up
    hub.only_cached.cache_clear()


def refused() -> None:
    raise ConnectionError("refused")


def test_a_hub_that_answers_is_there_and_is_asked_once(online: Callable[..., Session]) -> None:
    session = online(lambda: None)
    assert [hub.only_cached(), hub.only_cached()] == [False, False]
    assert session.asked == 1


def test_a_hub_that_refuses_or_is_silent_is_not_there(online: Callable[..., Session]) -> None:
    online(refused)
    assert hub.only_cached()
    silence = threading.Event()
    online(lambda: assert_(silence.wait(10)))
    assert hub.only_cached()
    silence.set()


def assert_(value: object) -> None:
    assert value


def test_a_model_of_the_hub_without_a_network_is_not_asked_for_again(
    online: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = online(refused)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("the client tries again"))
    with pytest.raises(NotFound, match=r"^no model named 'owner/none' .*, and the Hub does not answer"):
        load_model("owner/none", tiny.task("bert"))
    assert session.asked == 1
