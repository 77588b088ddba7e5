"""Environment variables and ``.env`` for traits.

A knob is a trait tagged with the variable that sets it::

    timeout = Int(60, min=1, help="Seconds that ...").tag(config=True, env="DOCKER_TIMEOUT", group="Docker")

More tags that are read here: ``unit`` (a word for the documents), ``secret=True`` (the value is never shown),
``insecure`` (takes the value; says in a sentence what is unsafe about it in production, or None) and
``insecure_with`` (the same where that depends on other settings: takes the value and `Values.given`).

What is loaded, checked, documented and exported comes from walking these tags, so the parts cannot disagree.
Precedence: command line > environment > .env > jupyter_config.py > default. Nothing here reads or changes
``os.environ``. Problems are whole sentences, and all of them are collected: what `ConfigError` takes.
"""

from __future__ import annotations

import copy
import difflib
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from pathlib import Path
from typing import Any, NamedTuple

from traitlets import Bool, Enum, Float, HasTraits, Int, List, Set, TraitError, TraitType, Unicode
from traitlets.config import Config, Configurable
from traitlets.config.loader import DeferredConfig, LazyConfigValue
from traitlets.traitlets import CaselessStrEnum, DefaultHandler

Classes = Sequence[type[Configurable]]
Trait = TraitType[Any, Any]

GROUPS = (
    "API",
    "HTTPS",
    "Authentication",
    "Redis",
    "MinIO",
    "Docker",
    "Execution limits",
    "File limits",
    "Session limits",
    "Sessions",
    "Jupyter",
    "Container pool",
    "REPL",
    "State persistence",
    "State archival",
    "Security",
    "Logging",
    "Health checks",
    "Development",
    "Languages",
)
"""The order of groups in documents. Others follow, as they come."""

MASK = "********"
TRUE_WORDS = frozenset({"true", "1", "yes", "on"})
FALSE_WORDS = frozenset({"false", "0", "no", "off"})
WIDTH = 100


# --- knobs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Knob:
    """One trait that an environment variable sets. ``cls`` is the class that defines the trait."""

    cls: type[Configurable]
    name: str
    trait: Trait = field(compare=False, repr=False)
    env: str
    group: str
    help: str = field(compare=False, repr=False)
    default: Any = field(compare=False)

    @property
    def secret(self) -> bool:
        """Whether the value must not be shown to anybody."""
        return bool(self.trait.metadata.get("secret"))

    @property
    def path(self) -> str:
        """The name in ``jupyter_config.py`` and on the command line."""
        return f"{self.cls.__name__}.{self.name}"


def knobs(classes: Classes) -> list[Knob]:
    """The knobs of these classes, inherited ones once, in the order of classes and definitions.

    A trait without the tag ``group`` is grouped under the name of its class. Raises `ValueError` when a knob
    is declared wrongly: a variable named twice, no ``config=True``, no help, a default that the trait
    refuses, or one that is computed (``@default``) and so cannot be shown in documents.
    """
    found: dict[str, Knob] = {}
    for cls in classes:
        for trait in _tagged_traits(cls):
            knob = _knob(cls, trait)
            other = found.setdefault(knob.env, knob)
            if other.trait is not trait:
                raise ValueError(f"{other.path} and {knob.path} both name the variable {knob.env}")
    return list(found.values())


def _tagged_traits(cls: type[Configurable]) -> Iterator[Trait]:
    """The traits with a variable, base classes first, in the order in which they were written."""
    traits = cls.class_traits()
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            trait = traits.get(name)
            if trait is not None and trait is value and "env" in trait.metadata:
                yield trait


def _knob(cls: type[Configurable], trait: Trait) -> Knob:
    defined = trait.this_class
    owner = defined if defined is not None and issubclass(defined, Configurable) else cls
    name = trait.name or ""
    for wrong, reason in (
        (not trait.metadata.get("config"), "lacks the tag config=True"),
        (not trait.help, "lacks help"),
        (_has_computed_default(cls, trait), "has a computed default"),
        (not _accepts_default(trait), "does not accept its own default"),
    ):
        if wrong:
            raise ValueError(f"{owner.__name__}.{name} names a variable and {reason}")
    group = trait.metadata.get("group", owner.__name__)
    value = validated(trait, trait.default())
    return Knob(owner, name, trait, trait.metadata["env"], group, " ".join(trait.help.split()), value)


def _has_computed_default(cls: type[Configurable], trait: Trait) -> bool:
    """Whether ``cls``, or a class up to the trait's own, computes the default with a method."""
    bases = [base for base in cls.__mro__ if issubclass(base, trait.this_class or cls)]
    return any(
        name == f"_{trait.name}_default" or (isinstance(value, DefaultHandler) and value.trait_name == trait.name)
        for base in bases
        for name, value in vars(base).items()
    )


def _accepts_default(trait: Trait) -> bool:
    try:
        validated(trait, trait.default())
    except (TraitError, ValueError):
        return False
    return True


# --- .env ----------------------------------------------------------------------------------------


class EnvEntry(NamedTuple):
    """A raw value, and where it came from in the words of a problem."""

    value: str
    source: str


@dataclass(frozen=True)
class EnvFile:
    """What a ``.env`` file holds; ``problems`` has one sentence for each line that cannot be read."""

    entries: Mapping[str, EnvEntry] = field(default_factory=dict)
    problems: Sequence[str] = ()


_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*=(.*)")
_SINGLE_QUOTED = re.compile(r"'([^']*)'(?:\s+#.*)?")
_DOUBLE_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"(?:\s+#.*)?')
_COMMENT = re.compile(r"\s#.*")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


def read_env_file(path: Path) -> EnvFile:
    r"""Read a ``.env`` file; one that does not exist is empty.

    The plain part of what Docker Compose reads: ``NAME=value`` with or without ``export``, ``'literal'``,
    ``"with \n \" \\ escapes"``, ``#`` comments. A ``$`` stands for itself. Of two equal names the
    last counts. Lines that cannot be read are never quoted in a problem: they may hold a secret.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return EnvFile()
    except OSError as error:
        return EnvFile(problems=[f"{path} cannot be read: {error.strerror}."])
    except UnicodeDecodeError:
        return EnvFile(problems=[f"{path} must be text in UTF-8."])
    return _parse_env_lines(str(path), text.split("\n"))


def _parse_env_lines(path: str, lines: Iterable[str]) -> EnvFile:
    entries: dict[str, EnvEntry] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, start=1):
        source = f"{path}:{number}"
        try:
            for name, value in _parse_env_line(line.strip()):
                entries[name] = EnvEntry(value, source)
        except ValueError as error:
            problems.append(f"{source} {error}.")
    return EnvFile(entries, problems)


def _parse_env_line(line: str) -> list[tuple[str, str]]:
    """The one assignment of a line, or none. Raises `ValueError` with the rest of a sentence."""
    if not line or line.startswith("#"):
        return []
    match = _ASSIGNMENT.fullmatch(line)
    if match is None:
        raise ValueError("must be NAME=value, a comment or blank")
    name, raw = match.groups()
    return [(name, _parse_env_value(name, raw))]


def _parse_env_value(name: str, raw: str) -> str:
    text = raw.strip()
    if not text.startswith(("'", '"')):
        return _COMMENT.sub("", raw).strip()
    match = (_SINGLE_QUOTED if text[0] == "'" else _DOUBLE_QUOTED).fullmatch(text)
    if match is None:
        raise ValueError(f"must end the quoted value of {name} with a quote, followed by nothing but a comment")
    return match[1] if text[0] == "'" else _ESCAPE.sub(_unescape, match[1])


def _unescape(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[1], match[0])


def env_file_warnings(classes: Classes, env_file: EnvFile) -> list[str]:
    """A sentence for each name in ``.env`` that is no knob and looks like a misspelt one."""
    names = [knob.env for knob in knobs(classes)]
    warnings = []
    for name, entry in env_file.entries.items():
        close = difflib.get_close_matches(name.upper(), names, n=1, cutoff=0.85)
        if name not in names and close:
            warnings.append(f"{name} ({entry.source}) is not a setting; did you mean {close[0]}?")
    return warnings


# --- values --------------------------------------------------------------------------------------


def parse(trait: Trait, raw: str) -> Any:
    """The value that ``raw`` stands for, checked by the trait. Raises `ValueError` or `TraitError`."""
    return validated(trait, _read(trait, raw))


def validated(trait: Trait, value: Any) -> Any:
    """``value`` as the trait would hold it: type, bounds and choices, but no ``@validate`` methods.

    Numbers must be finite. Raises `ValueError` or `TraitError`.
    """
    if value is None and trait.allow_none:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a finite number")
    validate = getattr(trait, "validate", None)
    return value if validate is None else validate(HasTraits(), value)


@singledispatch
def _read(trait: Trait, raw: str) -> Any:
    return trait.from_string(raw)


@_read.register(Unicode)
def _read_text(trait: Unicode[Any, Any], raw: str) -> str:
    return raw


@_read.register(Bool)
def _read_bool(trait: Bool[Any, Any], raw: str) -> bool:
    word = raw.strip().lower()
    if word not in TRUE_WORDS | FALSE_WORDS:
        raise ValueError("neither true nor false")
    return word in TRUE_WORDS


@_read.register(Int)
def _read_int(trait: Int[Any, Any], raw: str) -> int:
    if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", raw):
        raise ValueError("not a whole number")
    return int(raw)


@_read.register(Float)
def _read_float(trait: Float[Any, Any], raw: str) -> float:
    if "_" in raw:
        raise ValueError("not a number")
    return float(raw)


@_read.register(Enum)
def _read_choice(trait: Enum[Any], raw: str) -> Any:
    text = raw.strip()
    return next((choice for choice in trait.values or () if str(choice) == text), text)


@_read.register(List)
@_read.register(Set)
def _read_items(trait: List[Any] | Set, raw: str) -> list[Any]:
    items = [item.strip() for item in raw.split(",")]
    kind = trait._trait
    return [item if kind is None else parse(kind, item) for item in items if item]


@singledispatch
def expected(trait: Trait) -> str:
    """What the trait accepts, in words that follow "must be"."""
    return trait.info()


@expected.register(Unicode)
def _expect_text(trait: Unicode[Any, Any]) -> str:
    return "text" if trait.info_text == Unicode.info_text else trait.info_text


@expected.register(Bool)
def _expect_bool(trait: Bool[Any, Any]) -> str:
    return "true or false"


@expected.register(Int)
def _expect_int(trait: Int[Any, Any]) -> str:
    return "a whole number" + _range(trait.min, trait.max)


@expected.register(Float)
def _expect_float(trait: Float[Any, Any]) -> str:
    low, high = (bound if bound is not None and math.isfinite(bound) else None for bound in (trait.min, trait.max))
    return "a number" + _range(low, high)


@expected.register(Enum)
def _expect_choice(trait: Enum[Any]) -> str:
    return "one of " + ", ".join(str(choice) for choice in trait.values or ())


@expected.register(CaselessStrEnum)
def _expect_caseless_choice(trait: CaselessStrEnum[Any]) -> str:
    return _expect_choice(trait) + " (in any case)"


@expected.register(List)
@expected.register(Set)
def _expect_items(trait: List[Any] | Set) -> str:
    longest = trait._maxlen if trait._maxlen < 2**31 else None
    bounds = _range(trait._minlen or None, longest)
    kind = trait._trait
    words = "a list" + (f"{bounds.replace(' from', ' of')} items" if bounds else "")
    return words if kind is None or isinstance(kind, Unicode) else f"{words}, each {expected(kind)}"


def expected_text(trait: Trait) -> str:
    """What a variable for the trait accepts, in words that follow "must be"."""
    words = expected(trait)
    return "a comma-separated " + words.removeprefix("a ") if isinstance(trait, (List, Set)) else words


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    return "" if high is None else f" of at most {high}"


def _refusal(name: str, wanted: str, trait: Trait, value: Any, source: str) -> str:
    """The sentence for a value that the trait does not take; it never holds a secret."""
    if trait.metadata.get("secret"):
        return f"{name} must be {wanted}, not what was given (from {source}; a secret, not shown)."
    return f"{name} must be {wanted}, not {_shortened(repr(value))} (from {source})."


def _shortened(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


# --- loading -------------------------------------------------------------------------------------


def environment_config(
    classes: Classes, environ: Mapping[str, str], env_file: EnvFile | None = None
) -> tuple[Config, list[str]]:
    """What the environment sets, else ``.env``, and a sentence for each value or line that is wrong.

    A blank value counts as not set. Values that are wrong are left out of the config.
    """
    env_file = env_file or EnvFile()
    config = Config()
    problems = list(env_file.problems)
    for knob in knobs(classes):
        for given in _given(knob.env, environ, env_file):
            try:
                config[knob.cls.__name__][knob.name] = parse(knob.trait, given.value)
            except (TraitError, ValueError):
                problems.append(_refusal(knob.env, expected_text(knob.trait), knob.trait, *given))
    return config, problems


def _given(name: str, environ: Mapping[str, str], env_file: EnvFile) -> list[EnvEntry]:
    """The one value that counts, or none."""
    entries = [EnvEntry(environ.get(name, ""), "the environment")]
    entries += [env_file.entries[name]] if name in env_file.entries else []
    return [entry for entry in entries if entry.value.strip()][:1]


def override(classes: Classes, config: Config, environment: Config) -> Config:
    """``config`` with the values of ``environment`` in place of its own.

    Traitlets lets a more specific section win (``c.Subclass.x``, ``c.Parent.Class.x``) whatever file or
    variable it came from; here such a value gives way too. The application calls this between the config
    files and the second look at the command line.
    """
    result = copy.deepcopy(config)
    for knob in knobs(classes):
        if knob.path in environment:
            family = {c.__name__ for cls in classes for c in cls.__mro__ if issubclass(c, knob.cls)}
            _drop(result, family, knob.name)
    result.merge(copy.deepcopy(environment))
    return result


def _drop(config: Config, sections: set[str], name: str) -> None:
    for key, value in config.items():
        if isinstance(value, Config):
            if key in sections:
                value.pop(name, None)
            _drop(value, sections, name)


def check_config(classes: Classes, config: Config) -> list[str]:
    """A sentence for each value, and each unknown name, that config files or the command line got wrong.

    Sections of classes that are not listed are left alone; sections within sections are looked into.
    """
    known = {cls.__name__: cls for cls in classes}
    problems = []
    for key, section in config.items():
        if isinstance(section, Config):
            problems += _check_section(known[key], section) if key in known else []
            problems += check_config(classes, section)
    return problems


def _check_section(cls: type[Configurable], section: Config) -> list[str]:
    traits = cls.class_traits(config=True)
    problems = []
    for name, value in section.items():
        if name in traits:
            problems += _check_value(f"{cls.__name__}.{name}", traits[name], value)
        elif not isinstance(value, Config):
            problems.append(_unknown(cls.__name__, name, traits))
    return problems


def _check_value(path: str, trait: Trait, value: Any) -> list[str]:
    try:
        value = _settled(trait, value, trait.default())
        validated(trait, value)
    except (TraitError, ValueError):
        return [_refusal(path, expected(trait), trait, value, "jupyter_config.py or the command line")]
    return []


def _unknown(section: str, name: str, traits: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(traits), n=1)
    hint = f"did you mean {section}.{close[0]}?" if close else "--help-all lists what there is."
    return f"{section}.{name} is not a setting of {section}; {hint}"


def _settled(trait: Trait, value: Any, initial: Any) -> Any:
    """What traitlets would assign for ``value`` in a config; ``initial`` is what ``append`` adds to."""
    if isinstance(value, LazyConfigValue):
        value = copy.deepcopy(value).get_value(initial)
    elif isinstance(value, DeferredConfig):
        value = value.get_value(trait)
    return [value] if isinstance(trait, List) and isinstance(value, str) else value


# --- what is in force ----------------------------------------------------------------------------


class Values(dict[Knob, Any]):
    """The value of each knob; ``given`` has, by variable, those that a configuration gives and no defaults."""

    def __init__(self, values: Mapping[Knob, Any], given: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.given = given


def effective_values(classes: Classes, config: Config) -> Values:
    """The value of each knob: what the config holds for the class or its bases, else the default.

    Sections within sections are not looked into. Raises `TraitError` or `ValueError` for what `check_config`
    reports.
    """
    readers = {knob: _reader(classes, knob) for knob in knobs(classes)}
    values = {knob: _effective(reader, knob, config) for knob, reader in readers.items()}
    given = {knob.env: values[knob] for knob, reader in readers.items() if _places(reader, knob, config)}
    return Values(values, given)


def _reader(classes: Classes, knob: Knob) -> type[Configurable]:
    """The listed class whose objects hold the knob."""
    return next(cls for cls in classes if issubclass(cls, knob.cls))


def _effective(reader: type[Configurable], knob: Knob, config: Config) -> Any:
    value = knob.default
    for section in _places(reader, knob, config):
        value = _settled(knob.trait, config[section][knob.name], value)
    return validated(knob.trait, value)


def _places(reader: type[Configurable], knob: Knob, config: Config) -> list[str]:
    """The sections that hold a value of the knob, the strongest last."""
    return [section for section in reader.section_names() if f"{section}.{knob.name}" in config]


def summary(values: Mapping[Knob, Any]) -> str:
    """A table for people, grouped: what each knob holds and, where that was changed, its default."""
    width = max((len(knob.env) for knob in values), default=0)
    blocks = []
    for group, members in _grouped(values):
        lines = [_summary_line(knob, values[knob], width) for knob in members]
        blocks.append("\n".join([group, *lines]))
    return "\n\n".join(blocks) + "\n"


def _summary_line(knob: Knob, value: Any, width: int) -> str:
    shown = _shortened(_one_line(_masked(knob, value))) or "-"
    default = "" if value == knob.default else f"  (default: {_one_line(knob.default) or '-'})"
    return f"  {knob.env:{width}}  {shown}{default}"


def export(values: Mapping[Knob, Any]) -> dict[str, Any]:
    """The values by variable, ready for JSON; a secret that is set becomes asterisks."""
    return {knob.env: _plain(_masked(knob, value)) for knob, value in values.items()}


def security_findings(values: Mapping[Knob, Any]) -> list[str]:
    """What the ``insecure`` tags say about these values, each sentence behind the variable's name.

    All values count as given when they are no `Values`.
    """
    given = values.given if isinstance(values, Values) else {knob.env: value for knob, value in values.items()}
    found = {knob.env: _unsafe(knob.trait, value, given) for knob, value in values.items()}
    return [f"{env}: {sentence}" for env, sentence in found.items() if sentence]


def _unsafe(trait: Trait, value: Any, given: Mapping[str, Any]) -> str | None:
    alone, among = (trait.metadata.get(tag) for tag in ("insecure", "insecure_with"))
    sentences = (alone(value) if alone else None, among(value, given) if among else None)
    return next(filter(None, sentences), None)


def _masked(knob: Knob, value: Any) -> Any:
    return MASK if knob.secret and value else value


def _plain(value: Any) -> Any:
    """``value`` in JSON's types."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(item) for item in value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


# --- documents -----------------------------------------------------------------------------------


def env_template(classes: Classes, groups: Sequence[str] = GROUPS) -> str:
    """The text of ``.env.example``: each knob with its help, and its default commented out.

    Defaults are constants in the source, those of secrets included, so all of them are public.
    """
    lines = [
        "# Settings of kernelgate. Copy this file to .env, and take the # away from what you change.",
        "# A variable in the environment wins over this file, and this file over jupyter_config.py.",
    ]
    for group, members in _grouped(knobs(classes), groups):
        lines += ["", "", f"# --- {group} " + "-" * (WIDTH - len(group) - 7)]
        for knob in members:
            lines += ["", *_template_lines(knob)]
    return "\n".join(lines) + "\n"


def _template_lines(knob: Knob) -> list[str]:
    text = f"{knob.help} Takes {_accepted(knob)}."
    wrapped = textwrap.wrap(text, WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in wrapped] + [f"# {knob.env}={_quoted(env_text(knob.default))}"]


def markdown_table(classes: Classes, groups: Sequence[str] = GROUPS) -> str:
    """The reference for the docs: a heading and a table for each group."""
    blocks = []
    for group, members in _grouped(knobs(classes), groups):
        rows = ["| Variable | Default | Takes | Trait | Meaning |", "| --- | --- | --- | --- | --- |"]
        blocks.append("\n".join([f"### {group}", "", *rows, *map(_table_row, members)]))
    return "\n\n".join(blocks) + "\n"


def _table_row(knob: Knob) -> str:
    default = _one_line(knob.default)
    cells = [
        f"`{knob.env}`",
        f"`{default}`" if default else "-",
        _accepted(knob),
        f"`{knob.path}`",
        knob.help,
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _accepted(knob: Knob) -> str:
    unit = knob.trait.metadata.get("unit")
    return expected_text(knob.trait) + (f" ({unit})" if unit else "")


def _grouped(ungrouped: Iterable[Knob], groups: Sequence[str] = GROUPS) -> list[tuple[str, list[Knob]]]:
    """The knobs by group, in the order of ``groups``; the others behind, as they come. None is empty."""
    found: dict[str, list[Knob]] = {group: [] for group in groups}
    for knob in ungrouped:
        found.setdefault(knob.group, []).append(knob)
    return [(group, members) for group, members in found.items() if members]


def env_text(value: Any) -> str:
    """A value as `parse` reads it: ``true``, ``30``, ``a,b``; None is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    plain = _plain(value)
    return ",".join(map(env_text, plain)) if isinstance(plain, list) else str(plain)


def _one_line(value: Any) -> str:
    text = env_text(value)
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _quoted(text: str) -> str:
    """``text`` as `read_env_file` reads it, with quotes only where they are needed."""
    if re.fullmatch(r"[\w./:@%+,=*-]*", text):
        return text
    if "'" not in text and text.isprintable():
        return f"'{text}'"
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "$": "\\$"}
    return '"' + "".join(escapes.get(char, char) for char in text) + '"'
