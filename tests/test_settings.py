"""Settings: variables and ``.env`` to traits, problems in sentences, documents, and who wins over whom."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import pytest
from jupyter_core.application import JupyterApp
from traitlets import (
    Bool,
    CaselessStrEnum,
    Enum,
    Float,
    Int,
    List,
    Path,
    Set,
    TraitError,
    TraitType,
    Unicode,
    default,
)
from traitlets.config import Config, Configurable
from traitlets.config.loader import DeferredConfigList, DeferredConfigString

from kernelgate import settings

ENVIRONMENT = "the environment"
CONFIGURED = "jupyter_config.py or the command line"


def warn_of_short_keys(value: str) -> str | None:
    return f"the key has {len(value)} characters; use 16 or more." if len(value) < 16 else None


class Kitchen(Configurable):
    """One trait of each kind."""

    seats = Int(4, min=1, max=99, help="Guests that may sit.").tag(
        config=True, env="KITCHEN_SEATS", group="API", unit="chairs"
    )
    ovens = Int(2, min=1, help="Ovens.").tag(config=True, env="KITCHEN_OVENS", group="API")
    debts = Int(0, max=0, help="Debts.").tag(config=True, env="KITCHEN_DEBTS", group="API")
    spare = Int(None, allow_none=True, help="Spare parts.").tag(config=True, env="KITCHEN_SPARE")
    heat = Float(0.5, min=0, max=1, help="Heat.").tag(config=True, env="KITCHEN_HEAT")
    is_open = Bool(True, help="Whether guests\n    may come.").tag(config=True, env="KITCHEN_OPEN")
    title = Unicode("At Jo's # 1", help="A | name.").tag(config=True, env="KITCHEN_TITLE")
    motto = Unicode('Say "cheese"\n\tisn\'t it \\ $5', help="A motto.").tag(config=True, env="KITCHEN_MOTTO")
    level = Enum((10, "high", "low"), "low", help="A level.").tag(config=True, env="KITCHEN_LEVEL")
    style = CaselessStrEnum(["JSON", "text"], "JSON", help="A style.").tag(config=True, env="KITCHEN_STYLE")
    guests = List(Unicode(), help="Guests.").tag(config=True, env="KITCHEN_GUESTS", group="Docker")
    sizes = List(Int(min=1), [1, 2], minlen=1, maxlen=3, help="Sizes.").tag(config=True, env="KITCHEN_SIZES")
    herbs = Set(Unicode(), {"dill", "basil"}, help="Herbs.").tag(config=True, env="KITCHEN_HERBS")
    cellar = Path("wine", help="The cellar.").tag(config=True, env="KITCHEN_CELLAR")
    key = Unicode("test-api-key", help="The key.").tag(
        config=True, env="KITCHEN_KEY", group="API", secret=True, insecure=warn_of_short_keys
    )
    keys = List(Int(), help="More keys.").tag(config=True, env="KITCHEN_KEYS", group="API", secret=True)
    untagged = Int(7, help="No variable.").tag(config=True)
    inner = Int(8, help="No knob.")

    @default("inner")
    def _inner_is_computed(self) -> int:
        return 9


class Cellar(Configurable):
    bottles = Int(10, min=0, help="Bottles.").tag(config=True, env="BOTTLES", group="Docker")
    grapes = List(Unicode(), ["red"], help="Grapes.").tag(config=True, env="GRAPES", group="Docker")


def warn_of_open_doors(lock: str, given: Mapping[str, Any]) -> str | None:
    return f"no lock on a door of {given['DOOR']}" if not lock and "DOOR" in given else None


class House(Configurable):
    lock = Unicode("", help="The lock.").tag(
        config=True, env="LOCK", group="API", insecure_with=warn_of_open_doors
    )
    door = Unicode("wood", help="What the door is of.").tag(config=True, env="DOOR", group="API")


class DeepCellar(Cellar):
    depth = Float(3.0, help="Depth.").tag(config=True, env="DEPTH", group="Cellars")


CLASSES: tuple[type[Configurable], ...] = (Kitchen, Cellar)


def trait_of(name: str) -> TraitType[Any, Any]:
    return Kitchen.class_traits()[name]


def load(environ: Mapping[str, str], env_file: settings.EnvFile | None = None) -> Config:
    """The configuration, when nothing is wrong."""
    config, problems = settings.environment_config(CLASSES, environ, env_file)
    assert problems == []
    return config


def problems_of(environ: Mapping[str, str]) -> list[str]:
    return settings.environment_config(CLASSES, environ)[1]


def section(values: Mapping[str, object]) -> Config:
    return Config(Kitchen=Config(values))


# --- knobs


def test_a_knob_describes_its_trait() -> None:
    knob = settings.knobs(CLASSES)[0]
    assert knob == settings.Knob(Kitchen, "seats", Kitchen.seats, "KITCHEN_SEATS", "API", "", 0)
    assert (knob.help, knob.default, knob.path, knob.secret) == (
        "Guests that may sit.",
        4,
        "Kitchen.seats",
        False,
    )
    assert knob.trait is trait_of("seats")


def test_knobs_come_in_the_order_of_definition_and_only_with_a_variable() -> None:
    names = [knob.name for knob in settings.knobs(CLASSES)]
    tagged = [name for name in vars(Kitchen) if "env" in getattr(vars(Kitchen)[name], "metadata", ())]
    assert names == [*tagged, "bottles", "grapes"]
    assert {"untagged", "inner"}.isdisjoint(names)


def test_a_knob_without_group_is_grouped_under_its_class() -> None:
    groups = {knob.name: knob.group for knob in settings.knobs(CLASSES)}
    assert (groups["heat"], groups["seats"]) == ("Kitchen", "API")


@pytest.mark.parametrize("classes", [(DeepCellar,), (DeepCellar, Cellar), (Cellar, DeepCellar)])
def test_an_inherited_knob_is_listed_once_with_the_class_that_defines_it(
    classes: Sequence[type[Configurable]],
) -> None:
    paths = [knob.path for knob in settings.knobs(classes)]
    assert paths == ["Cellar.bottles", "Cellar.grapes", "DeepCellar.depth"]


class Twice(Configurable):
    other = Int(1, help="Other.").tag(config=True, env="BOTTLES")


class NotConfigurable(Configurable):
    lost = Int(1, help="Lost.").tag(env="LOST")


class Helpless(Configurable):
    mute = Int(1).tag(config=True, env="MUTE")


class Computed(Configurable):
    now = Int(help="Now.").tag(config=True, env="NOW")

    @default("now")
    def _at_once(self) -> int:
        return 5


class Unfit(Configurable):
    size = Int(0, min=1, help="Size.").tag(config=True, env="SIZE")


class ComputedLater(Cellar):
    def _bottles_default(self) -> int:
        return 5


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((Cellar, Twice), "Cellar.bottles and Twice.other both name the variable BOTTLES"),
        ((NotConfigurable,), "NotConfigurable.lost names a variable and lacks the tag config=True"),
        ((Helpless,), "Helpless.mute names a variable and lacks help"),
        ((Computed,), "Computed.now names a variable and has a computed default"),
        ((Unfit,), "Unfit.size names a variable and does not accept its own default"),
        ((ComputedLater,), "Cellar.bottles names a variable and has a computed default"),
    ],
)
def test_a_wrongly_declared_knob_is_refused(classes: Sequence[type[Configurable]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        settings.knobs(classes)


# --- .env


@pytest.fixture
def env_file(tmp_path: FilePath) -> Callable[[str | bytes], settings.EnvFile]:
    def read(content: str | bytes) -> settings.EnvFile:
        path = tmp_path / ".env"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return settings.read_env_file(path)

    return read


EnvFileReader = Callable[[str | bytes], settings.EnvFile]


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("", {}),
        ("\n  \n# A=1\n  # B=2\n", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=", {"A": ""}),
        ("A=   ", {"A": ""}),
        ("  A = b c  ", {"A": "b c"}),
        ("export A=1", {"A": "1"}),
        ("export\tA=1", {"A": "1"}),
        ("export=1", {"export": "1"}),
        ("exported=1", {"exported": "1"}),
        ("a.b-c_1=x", {"a.b-c_1": "x"}),
        ("A=x=y==", {"A": "x=y=="}),
        ("A=b # c", {"A": "b"}),
        ("A=b\t# c", {"A": "b"}),
        ("A=b#c", {"A": "b#c"}),
        ("A=#c", {"A": "#c"}),
        ("A= # c", {"A": ""}),
        ("A=don't", {"A": "don't"}),
        ("A='b # c'", {"A": "b # c"}),
        ("A='b' # c", {"A": "b"}),
        (r"A='b\n$c'", {"A": r"b\n$c"}),
        ("A=''", {"A": ""}),
        ('A=""', {"A": ""}),
        ('A="b # c" # d', {"A": "b # c"}),
        ('A=" b "', {"A": " b "}),
        (r'A="b\n\r\t\"\\\$"', {"A": 'b\n\r\t"\\$'}),
        (r'A="\\n\d"', {"A": r"\n\d"}),
        ("A=$B ${C}", {"A": "$B ${C}"}),
        ("A=\u00e9\u2028z", {"A": "\u00e9\u2028z"}),
        (b"\xef\xbb\xbfA=1\r\nB='2'\r\n\r\nC=3 # c\r\n", {"A": "1", "B": "2", "C": "3"}),
    ],
)
def test_env_file_is_read(content: str | bytes, values: dict[str, str], env_file: EnvFileReader) -> None:
    read = env_file(content)
    assert read.problems == []
    assert {name: entry.value for name, entry in read.entries.items()} == values


NOT_ASSIGNED = "must be NAME=value, a comment or blank."
NOT_CLOSED = "must end the quoted value of A with a quote, followed by nothing but a comment."


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("hunter2", NOT_ASSIGNED),
        ("export A", NOT_ASSIGNED),
        ("=hunter2", NOT_ASSIGNED),
        ("1A=hunter2", NOT_ASSIGNED),
        ("A: hunter2", NOT_ASSIGNED),
        ("A B=hunter2", NOT_ASSIGNED),
        ("A='hunter2", NOT_CLOSED),
        ('A="hunter2', NOT_CLOSED),
        (r'A="hunter2\"', NOT_CLOSED),
        ("A='hunter2'x", NOT_CLOSED),
        ('A="hunter2"#x', NOT_CLOSED),
        ("A='hunter2' 'x'", NOT_CLOSED),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_not_quoted(
    line: str, reason: str, env_file: EnvFileReader, tmp_path: FilePath
) -> None:
    read = env_file(f"FIRST=1\n{line}\nLAST=3\n")
    assert read.problems == [f"{tmp_path / '.env'}:2 {reason}"]
    assert list(read.entries) == ["FIRST", "LAST"]


def test_entries_know_their_line(env_file: EnvFileReader, tmp_path: FilePath) -> None:
    assert env_file("\nA=1\n").entries["A"] == settings.EnvEntry("1", f"{tmp_path / '.env'}:2")


def test_a_missing_env_file_is_empty(tmp_path: FilePath) -> None:
    assert settings.read_env_file(tmp_path / "none") == settings.EnvFile()


def test_an_env_file_that_cannot_be_read_is_a_problem(env_file: EnvFileReader, tmp_path: FilePath) -> None:
    assert settings.read_env_file(tmp_path).problems == [f"{tmp_path} cannot be read: Is a directory."]
    assert env_file(b"A=\xff\n").problems == [f"{tmp_path / '.env'} must be text in UTF-8."]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("KITCHEN_SEAT", "KITCHEN_SEATS"),
        ("KITCHN_OVENS", "KITCHEN_OVENS"),
        ("kitchen_ovens", "KITCHEN_OVENS"),
        ("KITCHEN_SEATS", None),
        ("PATH", None),
        ("KITCHEN", None),
    ],
)
def test_a_misspelt_name_in_the_env_file_is_warned_about(
    name: str, meant: str | None, env_file: EnvFileReader, tmp_path: FilePath
) -> None:
    where = f"{tmp_path / '.env'}:1"
    warning = f"{name} ({where}) is not a setting; did you mean {meant}?"
    assert settings.env_file_warnings(CLASSES, env_file(f"{name}=1")) == ([warning] if meant else [])


# --- parsing


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        *[("is_open", raw, True) for raw in ("true", "True", "TRUE", "1", "yes", "Yes", "on", " ON ")],
        *[("is_open", raw, False) for raw in ("false", "False", "FALSE", "0", "no", "NO", "off", " Off ")],
        ("seats", "1", 1),
        ("seats", " 99 ", 99),
        ("seats", "+7", 7),
        ("seats", "007", 7),
        ("debts", "-5", -5),
        ("spare", "3", 3),
        ("heat", "0.25", 0.25),
        ("heat", "1", 1.0),
        ("heat", " 1e-3 ", 0.001),
        ("title", " as it is ", " as it is "),
        ("title", "'quoted'", "'quoted'"),
        ("title", "~/x", "~/x"),
        ("title", "None", "None"),
        ("title", "a,b", "a,b"),
        ("level", "10", 10),
        ("level", " high ", "high"),
        ("style", "json", "JSON"),
        ("style", "TEXT", "text"),
        ("guests", "ann", ["ann"]),
        ("guests", " ann , bob,,carl, ", ["ann", "bob", "carl"]),
        ("guests", ",", []),
        ("guests", "", []),
        ("guests", "[ann]", ["[ann]"]),
        ("sizes", "3, 2,1", [3, 2, 1]),
        ("herbs", "dill, mint,dill", {"dill", "mint"}),
        ("cellar", "/var/wine", FilePath("/var/wine")),
    ],
)
def test_a_raw_string_becomes_a_value(name: str, raw: str, value: object) -> None:
    parsed = settings.parse(trait_of(name), raw)
    assert parsed == value
    assert type(parsed) is type(value) or isinstance(value, FilePath)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        *[("is_open", raw) for raw in ("", "2", "maybe", "truee", "None", "y", "t")],
        *[("seats", raw) for raw in ("", "abc", "1.0", "1e1", "1_0", "٣", "0x10", "0", "100", "1 2", "9" * 5000)],
        *[("debts", raw) for raw in ("1", "-")],
        *[("spare", raw) for raw in ("None", "null")],
        *[("heat", raw) for raw in ("", "hot", "nan", "inf", "-inf", "-0.1", "1.1", "0_1", "0,5")],
        *[("level", raw) for raw in ("", "HIGH", "11", "['high']")],
        *[("style", raw) for raw in ("", "xml")],
        *[("sizes", raw) for raw in ("", ",", "1,x", "0", "1,2,3,4", "[1]")],
    ],
)
def test_a_raw_string_that_does_not_fit_is_refused(name: str, raw: str) -> None:
    with pytest.raises((ValueError, TraitError)):
        settings.parse(trait_of(name), raw)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("is_open", "true or false"),
        ("seats", "a whole number from 1 to 99"),
        ("ovens", "a whole number of at least 1"),
        ("debts", "a whole number of at most 0"),
        ("spare", "a whole number"),
        ("heat", "a number from 0 to 1"),
        ("title", "text"),
        ("level", "one of 10, high, low"),
        ("style", "one of JSON, text (in any case)"),
        ("guests", "a list"),
        ("sizes", "a list of 1 to 3 items, each a whole number of at least 1"),
        ("herbs", "a list"),
    ],
)
def test_what_is_expected_is_said_in_words(name: str, words: str) -> None:
    assert settings.expected(trait_of(name)) == words
    in_variables = words.replace("a list", "a comma-separated list")
    assert settings.expected_text(trait_of(name)) == in_variables


@pytest.mark.parametrize(
    ("trait", "words"),
    [
        (Float(1.0), "a number"),
        (Float(1.0, min=0.5), "a number of at least 0.5"),
        (Float(1.0, max=2), "a number of at most 2"),
        (Float(1.0, min=None, max=None), "a number"),
    ],
)
def test_a_number_without_a_bound_has_none_in_words(trait: Float[Any, Any], words: str) -> None:
    assert settings.expected(trait) == words


# --- the environment


def test_nothing_set_gives_an_empty_config() -> None:
    assert load({}) == {}
    assert load({"PATH": "/bin", "kitchen_seats": "9", "untagged": "9"}) == {}


def test_values_go_to_the_section_of_their_class() -> None:
    config = load({"KITCHEN_SEATS": "9", "KITCHEN_GUESTS": "ann,bob", "BOTTLES": "0"})
    assert config == {"Kitchen": {"seats": 9, "guests": ["ann", "bob"]}, "Cellar": {"bottles": 0}}


@pytest.mark.parametrize("name", [knob.env for knob in settings.knobs(CLASSES)])
@pytest.mark.parametrize("blank", ["", "  ", "\t"])
def test_a_blank_value_counts_as_not_set(name: str, blank: str) -> None:
    assert load({name: blank}) == {}


@pytest.mark.parametrize(("environ", "seats"), [({}, 5), ({"KITCHEN_SEATS": "6"}, 6), ({"KITCHEN_SEATS": ""}, 5)])
def test_the_environment_wins_over_the_env_file_unless_blank(
    environ: dict[str, str], seats: int, env_file: EnvFileReader
) -> None:
    assert load(environ, env_file("KITCHEN_SEATS=5")) == {"Kitchen": {"seats": seats}}


def test_os_environ_is_left_alone(env_file: EnvFileReader) -> None:
    before = dict(os.environ)
    load(os.environ, env_file("KITCHEN_SEATS=5"))
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("name", "raw", "sentence"),
    [
        ("KITCHEN_SEATS", "x", "a whole number from 1 to 99, not 'x'"),
        ("KITCHEN_OVENS", "0", "a whole number of at least 1, not '0'"),
        ("KITCHEN_DEBTS", "1", "a whole number of at most 0, not '1'"),
        ("KITCHEN_HEAT", "nan", "a number from 0 to 1, not 'nan'"),
        ("KITCHEN_OPEN", "2", "true or false, not '2'"),
        ("KITCHEN_LEVEL", "HIGH", "one of 10, high, low, not 'HIGH'"),
        ("KITCHEN_STYLE", "xml", "one of JSON, text (in any case), not 'xml'"),
        (
            "KITCHEN_SIZES",
            "1,b",
            "a comma-separated list of 1 to 3 items, each a whole number of at least 1, not '1,b'",
        ),
        ("KITCHEN_OPEN", "a" * 79, f"true or false, not '{'a' * 76}..."),
    ],
)
def test_a_problem_says_what_was_expected_what_came_and_whence(name: str, raw: str, sentence: str) -> None:
    assert problems_of({name: raw}) == [f"{name} must be {sentence} (from {ENVIRONMENT})."]


def test_a_problem_of_the_env_file_names_the_line(env_file: EnvFileReader, tmp_path: FilePath) -> None:
    _, problems = settings.environment_config(CLASSES, {}, env_file("\nBOTTLES=-1\n"))
    where = f"{tmp_path / '.env'}:2"
    assert problems == [f"BOTTLES must be a whole number of at least 0, not '-1' (from {where})."]


def test_a_problem_never_shows_a_secret() -> None:
    (problem,) = problems_of({"KITCHEN_KEYS": "12,hunter2"})
    wanted = "a comma-separated list, each a whole number"
    assert problem == (
        f"KITCHEN_KEYS must be {wanted}, not what was given (from {ENVIRONMENT}; a secret, not shown)."
    )


def test_all_problems_are_collected_and_the_rest_is_loaded(env_file: EnvFileReader, tmp_path: FilePath) -> None:
    environ = {"KITCHEN_SEATS": "x", "KITCHEN_OVENS": "3", "BOTTLES": "y"}
    config, problems = settings.environment_config(CLASSES, environ, env_file("oops\nKITCHEN_HEAT=z\n"))
    assert [problem.split()[0] for problem in problems] == [
        f"{tmp_path / '.env'}:1",
        "KITCHEN_SEATS",
        "KITCHEN_HEAT",
        "BOTTLES",
    ]
    assert config["Kitchen"] == {"ovens": 3}


# --- config files and the command line


@pytest.mark.parametrize(
    "values",
    [
        {"seats": 9, "heat": 1, "is_open": False, "title": "", "guests": ["ann"], "herbs": ["mint"]},
        {"untagged": 3, "spare": None, "style": "json", "cellar": "x"},
        {"seats": DeferredConfigString("9"), "is_open": DeferredConfigString("true")},
        {"guests": DeferredConfigString("ann"), "sizes": DeferredConfigList(["1", "2"])},
        {"seats": DeferredConfigList(["9"])},
        {"guests": "ann"},
        {"Elsewhere": Config({"nonsense": 1})},
    ],
)
def test_a_config_without_mistakes_has_no_problems(values: dict[str, object]) -> None:
    assert settings.check_config(CLASSES, section(values)) == []


def test_what_is_appended_in_a_config_file_is_checked_and_stays_as_it_was() -> None:
    config = Config()
    config.Kitchen.sizes.append(3)
    assert settings.check_config(CLASSES, config) == []
    config.Kitchen.sizes.append(4)
    (problem,) = settings.check_config(CLASSES, config)
    assert "not [1, 2, 3, 4]" in problem
    assert "value=" not in repr(config.Kitchen.sizes)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("seats", "9", "a whole number from 1 to 99, not '9'"),
        ("seats", 100, "a whole number from 1 to 99, not 100"),
        ("seats", DeferredConfigString("abc"), "a whole number from 1 to 99, not 'abc'"),
        (
            "seats",
            DeferredConfigList(["1", "2"]),
            "a whole number from 1 to 99, not DeferredConfigList(['1', '2'])",
        ),
        ("heat", float("nan"), "a number from 0 to 1, not nan"),
        ("is_open", "yes", "true or false, not 'yes'"),
        ("title", 5, "text, not 5"),
        ("guests", 5, "a list, not 5"),
        ("guests", ["ann", 5], "a list, not ['ann', 5]"),
        ("style", "xml", "one of JSON, text (in any case), not 'xml'"),
        ("untagged", None, "a whole number, not None"),
    ],
)
def test_a_wrong_value_in_a_config_is_a_problem(name: str, value: object, sentence: str) -> None:
    problems = settings.check_config(CLASSES, section({name: value}))
    assert problems == [f"Kitchen.{name} must be {sentence} (from {CONFIGURED})."]


def test_a_wrong_secret_in_a_config_is_not_shown() -> None:
    assert settings.check_config(CLASSES, section({"key": ["hunter2"]})) == [
        f"Kitchen.key must be text, not what was given (from {CONFIGURED}; a secret, not shown)."
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("seat", "did you mean Kitchen.seats?"),
        ("untaged", "did you mean Kitchen.untagged?"),
        ("inner", "--help-all lists what there is."),
        ("zzzz", "--help-all lists what there is."),
    ],
)
def test_an_unknown_name_is_a_problem_with_a_hint(name: str, hint: str) -> None:
    problems = settings.check_config(CLASSES, section({name: "hunter2"}))
    assert problems == [f"Kitchen.{name} is not a setting of Kitchen; {hint}"]


def test_sections_of_others_are_left_alone_and_nested_ones_are_not() -> None:
    config = Config(Stranger=Config(seats="x", Kitchen=Config(seats="y")), Configurable=Config(seats="z"))
    (problem,) = settings.check_config(CLASSES, config)
    assert "'y'" in problem


# --- what is in force


def named(values: Mapping[settings.Knob, Any]) -> dict[str, Any]:
    return {knob.name: value for knob, value in values.items()}


def test_without_config_the_defaults_are_in_force() -> None:
    values = settings.effective_values(CLASSES, Config())
    assert values == {knob: knob.default for knob in settings.knobs(CLASSES)}


def test_the_config_is_in_force_as_traits_hold_it() -> None:
    config = section({"seats": DeferredConfigString("9"), "style": "json", "guests": "ann", "heat": 1})
    config.Kitchen.sizes.append(3)
    values = named(settings.effective_values(CLASSES, config))
    kitchen = Kitchen(config=config)
    for name in ("seats", "style", "guests", "heat", "sizes"):
        assert values[name] == getattr(kitchen, name)
    assert values["sizes"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("sections", "bottles"),
    [
        ({}, 10),
        ({"Cellar": 1}, 1),
        ({"DeepCellar": 2}, 2),
        ({"Cellar": 1, "DeepCellar": 2}, 2),
        ({"Configurable": 3}, 3),
        ({"Kitchen": 4}, 10),
    ],
)
def test_sections_of_base_classes_apply_as_in_traitlets(sections: dict[str, int], bottles: int) -> None:
    config = Config({name: Config(bottles=value) for name, value in sections.items()})
    assert named(settings.effective_values([DeepCellar], config))["bottles"] == bottles
    if "Kitchen" not in sections:
        assert DeepCellar(config=config).bottles == bottles


def test_a_wrong_value_is_in_force_nowhere() -> None:
    with pytest.raises(TraitError):
        settings.effective_values(CLASSES, section({"seats": "x"}))


def test_export_is_json_with_secrets_masked() -> None:
    config = load({"KITCHEN_KEY": "hunter2", "KITCHEN_KEYS": "1,2", "KITCHEN_CELLAR": "/wine"})
    exported = settings.export(settings.effective_values(CLASSES, config))
    assert json.loads(json.dumps(exported)) == exported
    assert exported["KITCHEN_KEY"] == exported["KITCHEN_KEYS"] == "********"
    assert exported["KITCHEN_CELLAR"] == "/wine"
    assert exported["KITCHEN_HERBS"] == ["basil", "dill"]
    assert exported["KITCHEN_SPARE"] is None
    assert list(exported) == [knob.env for knob in settings.knobs(CLASSES)]


def test_export_shows_that_a_secret_is_not_set() -> None:
    assert settings.export(settings.effective_values(CLASSES, Config()))["KITCHEN_KEYS"] == []


def test_summary_is_grouped_masks_secrets_and_shows_what_was_changed() -> None:
    config = load({"KITCHEN_KEY": "hunter2", "BOTTLES": "3", "GRAPES": ",", "KITCHEN_TITLE": "t" * 100})
    lines = settings.summary(settings.effective_values(CLASSES, config)).splitlines()
    assert lines[:6] == [
        "API",
        "  KITCHEN_SEATS   4",
        "  KITCHEN_OVENS   2",
        "  KITCHEN_DEBTS   0",
        "  KITCHEN_KEY     ********  (default: test-api-key)",
        "  KITCHEN_KEYS    -",
    ]
    assert "  BOTTLES         3  (default: 10)" in lines
    assert "  GRAPES          -  (default: red)" in lines
    assert r"""  KITCHEN_MOTTO   Say "cheese"\n\tisn't it \ $5""" in lines
    assert f"  KITCHEN_TITLE   {'t' * 77}...  (default: At Jo's # 1)" in lines
    assert [line for line in lines if line and not line.startswith(" ")] == ["API", "Docker", "Kitchen"]


@pytest.mark.parametrize(
    ("key", "findings"),
    [
        ("short", ["KITCHEN_KEY: the key has 5 characters; use 16 or more."]),
        ("long enough for the purpose", []),
    ],
)
def test_security_findings_come_from_the_tags(key: str, findings: list[str]) -> None:
    values = settings.effective_values(CLASSES, section({"key": key}))
    assert settings.security_findings(values) == findings


@pytest.mark.parametrize(
    ("environ", "findings"),
    [
        ({}, []),
        ({"DOOR": "steel"}, ["LOCK: no lock on a door of steel"]),
        ({"DOOR": "wood"}, ["LOCK: no lock on a door of wood"]),
        ({"DOOR": " "}, []),
        ({"DOOR": "steel", "LOCK": "brass"}, []),
    ],
)
def test_security_findings_may_depend_on_what_else_is_given(environ: dict[str, str], findings: list[str]) -> None:
    config, problems = settings.environment_config([House], environ)
    assert problems == []
    assert settings.security_findings(settings.effective_values([House], config)) == findings


def test_security_findings_take_plain_values_as_given() -> None:
    values = {knob: knob.default for knob in settings.knobs([House])}
    assert settings.security_findings(values) == ["LOCK: no lock on a door of wood"]


def test_what_a_configuration_gives_is_told_from_the_defaults() -> None:
    config = Config(Cellar=Config(bottles=10), DeepCellar=Config(grapes=["white"]))
    assert settings.effective_values([DeepCellar], config).given == {"BOTTLES": 10, "GRAPES": ["white"]}


# --- documents


def assert_template_gives_the_defaults(classes: Sequence[type[Configurable]], path: FilePath) -> None:
    """Each line taken out of its comment, read and parsed, gives exactly the default."""
    path.write_text(re.sub(r"(?m)^# ([A-Z0-9_]+=)", r"\1", settings.env_template(classes)), "utf-8")
    env_file = settings.read_env_file(path)
    config, problems = settings.environment_config(classes, {}, env_file)
    knobs = settings.knobs(classes)
    assert problems == []
    assert set(env_file.entries) == {knob.env for knob in knobs}
    assert settings.effective_values(classes, config) == {knob: knob.default for knob in knobs}


def test_the_template_taken_out_of_its_comments_gives_the_defaults(tmp_path: FilePath) -> None:
    assert_template_gives_the_defaults([*CLASSES, DeepCellar], tmp_path / ".env")


def test_the_template_itself_sets_nothing(env_file: EnvFileReader) -> None:
    assert env_file(settings.env_template(CLASSES)) == settings.EnvFile({}, [])


def test_the_template_documents_each_knob() -> None:
    text = settings.env_template(CLASSES)
    assert "# Guests that may sit. Takes a whole number from 1 to 99 (chairs).\n# KITCHEN_SEATS=4\n" in text
    assert "# Whether guests may come. Takes true or false.\n# KITCHEN_OPEN=true\n" in text
    assert "\n# KITCHEN_KEY=test-api-key\n" in text
    assert '\n# KITCHEN_TITLE="At Jo\'s # 1"\n' in text
    assert (
        r"""
# KITCHEN_MOTTO="Say \"cheese\"\n\tisn't it \\ \$5"
"""
        in text
    )
    assert all(len(line) <= settings.WIDTH for line in text.splitlines())


def test_groups_follow_the_order_asked_for_and_others_come_behind() -> None:
    def order(text: str) -> list[str]:
        return re.findall(r"(?m)^# --- (\S+) ", text)

    classes: settings.Classes = (*CLASSES, DeepCellar)
    assert order(settings.env_template(classes)) == ["API", "Docker", "Kitchen", "Cellars"]
    chosen = settings.env_template(classes, ["Cellars", "None", "Docker"])
    assert order(chosen) == ["Cellars", "Docker", "API", "Kitchen"]


def test_the_markdown_table_has_a_row_for_each_knob() -> None:
    text = settings.markdown_table(CLASSES)
    assert re.findall(r"(?m)^### (.+)$", text) == ["API", "Docker", "Kitchen"]
    assert set(re.findall(r"(?m)^\| `([A-Z_]+)`", text)) == {knob.env for knob in settings.knobs(CLASSES)}
    assert (
        "| `KITCHEN_SEATS` | `4` | a whole number from 1 to 99 (chairs) "
        "| `Kitchen.seats` | Guests that may sit. |\n"
    ) in text
    assert "| `KITCHEN_GUESTS` | - | a comma-separated list | `Kitchen.guests` | Guests. |" in text
    assert "| A \\| name. |" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "true"), (False, "false"), (0, "0"), (0.5, "0.5"), ("a b", "a b"), (["a", 1], "a,1")],
)
def test_values_are_written_as_they_are_read(value: object, text: str) -> None:
    assert settings.env_text(value) == text


# --- precedence, in a real application


class GateApp(JupyterApp):
    """The smallest application that loads its settings as the server does."""

    name = "kernelgate-test"
    classes = [Cellar]  # noqa: RUF012
    port = Int(1, help="Port.").tag(config=True, env="GATE_PORT")
    hosts = List(Unicode(), ["default"], help="Hosts.").tag(config=True, env="GATE_HOSTS")
    env_path = Path()

    def load_config_file(self, suppress_errors: bool = True) -> None:  # type: ignore[override]
        super().load_config_file(suppress_errors)
        env_file = settings.read_env_file(FilePath(self.env_path))
        environment, problems = settings.environment_config(self.classes, os.environ, env_file)
        assert problems == []
        self.config = settings.override(self.classes, self.config, environment)


AppStarter = Callable[..., GateApp]


@pytest.fixture
def start_app(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> AppStarter:
    """Start a `GateApp` on given files, variables and arguments."""
    for variable in ("HOME", "IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("JUPYTER_NO_CONFIG", "1")

    def start(file: str = "", dotenv: str = "", environ: str = "", argv: str = "") -> GateApp:
        (tmp_path / "jupyter_config.py").write_text(file)
        (tmp_path / ".env").write_text(dotenv)
        if environ:
            monkeypatch.setenv(*environ.split("=", 1))
        app = GateApp(config_dir=str(tmp_path), env_path=tmp_path / ".env", raise_config_file_errors=True)
        app.initialize(argv.split())
        assert settings.check_config(app.classes, app.config) == []
        return app

    return start


LEVELS = ("file", "dotenv", "environ", "argv")
"""From weakest to strongest; the default is weaker than all."""

KNOB_AT_LEVEL: dict[str, dict[str, str]] = {
    "port": {
        "file": "c.GateApp.port = 20",
        "dotenv": "GATE_PORT=30",
        "environ": "GATE_PORT=40",
        "argv": "--GateApp.port=50",
    },
    "hosts": {
        "file": "c.GateApp.hosts.append('20')",
        "dotenv": "GATE_HOSTS=30",
        "environ": "GATE_HOSTS=40",
        "argv": "--GateApp.hosts=50",
    },
    "bottles": {
        "file": "c.Cellar.bottles = 20",
        "dotenv": "BOTTLES=30",
        "environ": "BOTTLES=40",
        "argv": "--Cellar.bottles=50",
    },
    "grapes": {
        "file": "c.Cellar.grapes = ['20']",
        "dotenv": "GRAPES=30",
        "environ": "GRAPES=40",
        "argv": "--Cellar.grapes=50",
    },
}


def value_in(app: GateApp, name: str) -> object:
    """What the object that uses the knob holds; what `effective_values` says is the same."""
    value: object = getattr(app if app.has_trait(name) else Cellar(parent=app), name)
    assert named(settings.effective_values(app.classes, app.config))[name] == value
    return value


@pytest.mark.parametrize("name", KNOB_AT_LEVEL)
@pytest.mark.parametrize("level", LEVELS)
def test_each_level_wins_over_the_default(name: str, level: str, start_app: AppStarter) -> None:
    untouched = value_in(start_app(), name)
    value = value_in(start_app(**{level: KNOB_AT_LEVEL[name][level]}), name)
    assert str(LEVELS.index(level) + 2) in str(value)
    assert value != untouched


@pytest.mark.parametrize("name", KNOB_AT_LEVEL)
@pytest.mark.parametrize(("weak", "strong"), list(itertools.combinations(LEVELS, 2)))
def test_the_stronger_of_two_levels_wins(name: str, weak: str, strong: str, start_app: AppStarter) -> None:
    at = KNOB_AT_LEVEL[name]
    number = (LEVELS.index(strong) + 2) * 10
    value = value_in(start_app(**{weak: at[weak], strong: at[strong]}), name)
    assert value in (number, [str(number)])


@pytest.mark.parametrize(
    ("file", "bottles"),
    [
        ("c.Cellar.bottles = 20", 40),
        ("c.DeepCellar.bottles = 20", 40),
        ("c.GateApp.Cellar.bottles = 20", 40),
        ("c.GateApp.DeepCellar.bottles = 20", 40),
    ],
)
def test_the_environment_wins_over_more_specific_sections_of_a_file(
    file: str, bottles: int, start_app: AppStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GateApp, "classes", [Cellar, DeepCellar])
    app = start_app(file=file, environ="BOTTLES=40")
    assert DeepCellar(parent=app).bottles == bottles


@pytest.mark.parametrize("section_name", ["Cellar", "DeepCellar"])
def test_the_command_line_wins_whichever_class_it_names(
    section_name: str, start_app: AppStarter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GateApp, "classes", [Cellar, DeepCellar])
    app = start_app(file="c.DeepCellar.bottles = 20", environ="BOTTLES=40", argv=f"--{section_name}.bottles=50")
    assert DeepCellar(parent=app).bottles == 50


def test_override_leaves_its_arguments_and_the_rest_alone() -> None:
    config = Config(DeepCellar=Config(bottles=1, depth=2.0), Kitchen=Config(seats=3))
    environment = Config(Cellar=Config(bottles=9))
    result = settings.override([Cellar, DeepCellar], config, environment)
    assert result == {"DeepCellar": {"depth": 2.0}, "Kitchen": {"seats": 3}, "Cellar": {"bottles": 9}}
    result.Cellar.bottles = 10
    assert config.DeepCellar.bottles == 1
    assert environment.Cellar.bottles == 9
