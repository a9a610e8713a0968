import pytest

from kebench.errors import BadFile, BadSetting, BrokenEditor, Busy, KebenchError, NotFound, did_you_mean


@pytest.mark.parametrize("kind", [BadFile, BadSetting, BrokenEditor, NotFound, Busy])
def test_all_are_a_users_mistakes(kind: type[Exception]) -> None:
    assert issubclass(kind, KebenchError)


def test_a_bad_file_says_where() -> None:
    assert str(BadFile("a.yaml", "no good")) == "a.yaml: no good"
    assert str(BadFile("a.jsonl", "no good", place=0)) == "a.jsonl:0: no good"
    assert str(BadFile("a.yaml", "no good", place="edits.3")) == "a.yaml:edits.3: no good"


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("zsr", ["zsre", "fever"], "; did you mean 'zsre'?"),
        ("fevr", ("zsre", "fever"), "; did you mean 'fever'?"),
        ("nothing like it", ["zsre", "fever"], "; known: fever, zsre"),
        ("x", [], ""),
        ("x", iter(["a"]), "; known: a"),
    ],
)
def test_the_nearest_name(name: str, known: list[str], said: str) -> None:
    assert did_you_mean(name, known) == said


def test_not_found_offers_the_nearest_name() -> None:
    assert str(NotFound("task", "zsr", ["zsre"])) == "no task named 'zsr'; did you mean 'zsre'?"
    assert str(NotFound("file", "x.json")) == "no file named 'x.json'"
