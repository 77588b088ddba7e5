"""The whole configuration: every variable of the configuration guide, the documents, and ``kernelgate config``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from traitlets import Bool, Enum, Float, Int, List
from traitlets.config import Config, Configurable

from kernelgate import settings
from kernelgate.app import KernelGateApp
from kernelgate.commands import ConfigApp
from kernelgate.configuration import CLASSES
from kernelgate.languages import LANGUAGES
from kernelgate.stores.choice import Stores
from kernelgate.stores.minio import MinioStore
from kernelgate.stores.redis import RedisStore

ROOT = Path(__file__).parent.parent
ALL_CLASSES: list[type[Configurable]] = [KernelGateApp, *CLASSES]
KNOBS = settings.knobs(ALL_CLASSES)
BY_ENV = {knob.env: knob for knob in KNOBS}

GUIDE: dict[str, Any] = {
    "API_HOST": "0.0.0.0",
    "API_PORT": 8000,
    "API_DEBUG": False,
    "API_RELOAD": False,
    "API_KEY": "test-api-key",
    "API_KEYS": [],
    "API_KEY_HEADER": "x-api-key",
    "API_KEY_CACHE_TTL": 300,
    "REDIS_HOST": "localhost",
    "REDIS_PORT": 6379,
    "REDIS_PASSWORD": "",
    "REDIS_DB": 0,
    "REDIS_URL": "",
    "REDIS_MAX_CONNECTIONS": 20,
    "REDIS_SOCKET_TIMEOUT": 5,
    "REDIS_SOCKET_CONNECT_TIMEOUT": 5,
    "MINIO_ENDPOINT": "localhost:9000",
    "MINIO_ACCESS_KEY": "minioadmin",
    "MINIO_SECRET_KEY": "minioadmin",
    "MINIO_SECURE": False,
    "MINIO_BUCKET": "code-interpreter-files",
    "MINIO_REGION": "us-east-1",
    "DOCKER_BASE_URL": "",
    "DOCKER_TIMEOUT": 60,
    "DOCKER_NETWORK_MODE": "none",
    "DOCKER_READ_ONLY": True,
    "MAX_EXECUTION_TIME": 30,
    "MAX_MEMORY_MB": 512,
    "MAX_CPU_QUOTA": 50_000,
    "MAX_PROCESSES": 32,
    "MAX_OPEN_FILES": 1024,
    "MAX_FILE_SIZE_MB": 10,
    "MAX_TOTAL_FILE_SIZE_MB": 50,
    "MAX_FILES_PER_SESSION": 50,
    "MAX_FILENAME_LENGTH": 255,
    "MAX_CONCURRENT_EXECUTIONS": 10,
    "SESSION_TTL_HOURS": 24,
    "SESSION_ID_LENGTH": 32,
    "CONTAINER_POOL_ENABLED": True,
    "CONTAINER_POOL_MIN_SIZE": 2,
    "CONTAINER_POOL_MAX_SIZE": 15,
    "CONTAINER_POOL_WARMUP_ON_STARTUP": True,
    "CONTAINER_POOL_PY_MIN": 5,
    "CONTAINER_POOL_PY_MAX": 20,
    "CONTAINER_POOL_JS_MIN": 2,
    "CONTAINER_POOL_JS_MAX": 8,
    "REPL_ENABLED": True,
    "REPL_WARMUP_TIMEOUT_SECONDS": 15,
    "REPL_HEALTH_CHECK_TIMEOUT_SECONDS": 5,
    "STATE_PERSISTENCE_ENABLED": True,
    "STATE_TTL_SECONDS": 7200,
    "STATE_MAX_SIZE_MB": 50,
    "STATE_CAPTURE_ON_ERROR": False,
    "STATE_ARCHIVE_ENABLED": True,
    "STATE_ARCHIVE_AFTER_SECONDS": 3600,
    "STATE_ARCHIVE_TTL_DAYS": 7,
    "STATE_ARCHIVE_CHECK_INTERVAL_SECONDS": 300,
    "ENABLE_NETWORK_ISOLATION": True,
    "ENABLE_FILESYSTEM_ISOLATION": True,
    "LANG_PYTHON_IMAGE": "python:3.11-slim",
}
"""The defaults as the configuration guide has them, section by section."""

UNITS = re.compile(
    r"\b(seconds|hours|days|KB|MB|characters|CPU time|port|kernels|executions|containers|processes and threads"
    r"|files|calls|outputs|bytes|user id|connections|objects|number of the Redis database)\b",
    re.IGNORECASE,
)

SPECIAL: dict[str, tuple[str, list[str]]] = {
    "REDIS_URL": (
        "redis://:pass@redis:6379/1",
        ["redis", "http://redis:6379", "redis://redis:port", "redis://r?db=x"],
    ),
    "MINIO_ENDPOINT": ("minio:9000", ["http://minio:9000", "https://minio", "minio:9000/bucket", "minio:port"]),
    "MINIO_BUCKET": ("sessions", ["My_Bucket", "a", "b" * 64, "-sessions"]),
}
"""For variables that take text of a certain form: a value, and texts that must be refused."""


def example(knob: settings.Knob) -> tuple[str, Any]:
    """A value other than the default: as text for a variable, and as the trait holds it."""
    trait = knob.trait
    if knob.env in SPECIAL:
        return SPECIAL[knob.env][0], SPECIAL[knob.env][0]
    if isinstance(trait, Bool):
        return ("false", False) if knob.default else ("true", True)
    if isinstance(trait, (Int, Float)):
        value = knob.default + (1 if trait.max is None or knob.default < trait.max else -1)
        return str(value), value
    if isinstance(trait, Enum):
        choice = next(value for value in trait.values or () if value != knob.default)
        return str(choice), choice
    if isinstance(trait, List):
        return "one, two", ["one", "two"]
    return f"/tmp/{knob.name}", f"/tmp/{knob.name}"


def wrong(knob: settings.Knob) -> list[str]:
    """Texts that the knob must refuse; text of no certain form is never wrong."""
    trait = knob.trait
    if knob.env in SPECIAL:
        return SPECIAL[knob.env][1]
    if isinstance(trait, (Bool, Enum)):
        return ["maybe", "2", "tru"]
    if isinstance(trait, (Int, Float)):
        below = [] if trait.min is None else [str(trait.min - 1)]
        above = [] if trait.max is None else [str(trait.max + 1)]  # that of a Float may be infinite: refused too
        return [
            "many",
            "1.5.2",
            "0x10",
            "NaN",
            *(["1e3", "1.5"] if isinstance(trait, Int) else []),
            *below,
            *above,
        ]
    return []


def environment(folder: Path, env: Mapping[str, str] | None) -> dict[str, str]:
    """Nothing of our own environment, and the folder for everything that is looked for at home."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "JUPYTER_CONFIG_DIR": str(folder), **(env or {})}


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    code: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``kernelgate config`` in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, env: Mapping[str, str] | None = None) -> Done:
        variables = environment(tmp_path, env)
        with monkeypatch.context() as patch:
            for name in set(os.environ) - set(variables):
                patch.delenv(name)
            for name, value in variables.items():
                patch.setenv(name, value)
            app = ConfigApp()
            try:
                app.initialize(list(argv))
                app.start()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
        return Done(code, *capsys.readouterr())

    return run


# --- knobs


def test_every_variable_of_the_guide_has_the_guides_default() -> None:
    assert {env: BY_ENV[env].default for env in GUIDE if env in BY_ENV} == GUIDE


def test_variables_are_unique_and_named_like_variables() -> None:
    names = [knob.env for knob in KNOBS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Z]+(_[A-Z]+)*", name) for name in names)


def test_the_knobs_are_those_of_the_classes_that_commands_know() -> None:
    assert settings.knobs(CLASSES) == [knob for knob in KNOBS if knob in settings.knobs(CLASSES)]
    assert set(settings.knobs(CLASSES)) == set(KNOBS)


def test_each_class_is_listed_once() -> None:
    assert len(set(CLASSES)) == len(CLASSES)


def all_traits() -> dict[str, Any]:
    """Every trait that can be configured and is defined by kernelgate, with a variable or without."""
    return {
        f"{cls.__name__}.{name}": trait
        for cls in CLASSES
        for name, trait in cls.class_traits(config=True).items()
        if trait.this_class is cls
    }


@pytest.mark.parametrize("trait", all_traits().values(), ids=all_traits())
def test_every_setting_has_a_help_in_sentences(trait: Any) -> None:
    text = " ".join(trait.help.split())
    assert re.fullmatch(r"[A-Z].*\.", text)
    if type(trait) is Int:
        assert UNITS.search(text), "the help must name the unit"


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.env)
def test_a_knob_is_in_a_group_of_the_documents(knob: settings.Knob) -> None:
    assert knob.group in settings.GROUPS


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.id)
def test_the_image_of_each_language_can_be_set(language: Any) -> None:
    assert BY_ENV[language.image_env].default == language.base_image


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.env)
def test_a_variable_reaches_its_setting(knob: settings.Knob) -> None:
    text, value = example(knob)
    config, problems = settings.environment_config(ALL_CLASSES, {knob.env: text})
    assert problems == []
    values = settings.effective_values(ALL_CLASSES, config)
    assert values[knob] == value != knob.default
    assert {other: values[other] for other in KNOBS if other != knob} == {
        other: other.default for other in KNOBS if other != knob
    }


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.env)
def test_a_wrong_value_is_refused_and_names_its_variable(knob: settings.Knob) -> None:
    for text in wrong(knob):
        config, problems = settings.environment_config(ALL_CLASSES, {knob.env: text})
        assert config == Config()
        assert len(problems) == 1, text
        assert problems[0].startswith(f"{knob.env} must be {settings.expected_text(knob.trait)}, not ")
        assert problems[0].endswith(
            "(from the environment; a secret, not shown)." if knob.secret else "(from the environment)."
        )


# --- documents


def test_the_example_file_is_up_to_date() -> None:
    current = settings.env_template(CLASSES)
    written = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert written == current, "run: kernelgate config template > .env.example"


def test_the_table_in_the_documentation_is_up_to_date() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert settings.markdown_table(CLASSES).strip() in written, "run: make docs"


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.env)
def test_each_variable_is_documented_once(knob: settings.Knob) -> None:
    template, table = settings.env_template(CLASSES), settings.markdown_table(CLASSES)
    assert len(re.findall(rf"^# {knob.env}=", template, re.MULTILINE)) == 1
    assert len(re.findall(rf"^\| `{knob.env}` \|", table, re.MULTILINE)) == 1


def test_the_example_file_changes_nothing_when_it_is_taken_over(tmp_path: Path) -> None:
    text = re.sub(r"^# (?=[A-Z_]+=)", "", (ROOT / ".env.example").read_text(encoding="utf-8"), flags=re.MULTILINE)
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    config, problems = settings.environment_config(CLASSES, {}, settings.read_env_file(tmp_path / ".env"))
    assert problems == []
    assert settings.effective_values(CLASSES, config) == {knob: knob.default for knob in settings.knobs(CLASSES)}


# --- commands


def test_summary_shows_every_variable(command: Command) -> None:
    done = command("summary", env={"MAX_EXECUTION_TIME": "77", "API_KEY": "not-for-anybody-to-see"})
    assert (done.code, done.stderr) == (0, "")
    for knob in KNOBS:
        assert re.search(rf"^  {knob.env} ", done.stdout, re.MULTILINE)
    assert re.search(r"^  MAX_EXECUTION_TIME +77  \(default: 30\)$", done.stdout, re.MULTILINE)
    assert "not-for-anybody-to-see" not in done.stdout


def test_validate_is_silent_about_secrets_and_content_with_the_defaults(command: Command) -> None:
    done = command("validate", env={"API_KEY": "not-for-anybody-to-see"})
    assert (done.code, done.stdout, done.stderr) == (0, "the configuration is valid\n", "")


def test_validate_tells_all_mistakes_at_once(command: Command, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_PROCESSES=few\nwhat is this\n")
    (tmp_path / "jupyter_config.py").write_text("c.Executor.max_execution_tim = 5\nc.Engine.timeout = 'x'\n")
    done = command("validate", "--Admission.max_queued=-1", env={"API_PORT": "70000"})
    assert (done.code, done.stdout) == (1, "")
    for part in (
        "API_PORT",
        "MAX_PROCESSES",
        ".env:2",
        "max_execution_tim ",
        "Engine.timeout",
        "Admission.max_queued",
    ):
        assert part in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("env", "part"),
    [
        (
            {"CONTAINER_POOL_PY_MIN": "30"},
            "_PY_MIN must be at most CONTAINER_POOL_PY_MAX, got 30 and 20",
        ),
        ({"RUNTIME_DIR": "/tmp/" + "x" * 120}, "RUNTIME_DIR must be a path of at most "),
        (
            {"MINIO_ENDPOINT": "http://minio:9000"},
            "MINIO_ENDPOINT must be a host or host:port, without http:// and without a path, not 'http://minio:9000'",
        ),
        (
            {"REDIS_URL": "http://:hidden@redis"},
            "REDIS_URL must be a URL such as redis://:password@host:6379/0 (or rediss://, unix://), not what was ",
        ),
    ],
)
def test_validate_tells_what_is_wrong_beyond_values(command: Command, env: dict[str, str], part: str) -> None:
    done = command("validate", env=env)
    assert done.code == 1
    assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert "hidden" not in done.stderr


@pytest.mark.parametrize(
    "env",
    [
        {"STATE_ARCHIVE_STORE": "none", "STATE_ARCHIVE_ENABLED": "true"},
        {"STATE_ARCHIVE_AFTER_SECONDS": "7199"},
        {"STATE_ARCHIVE_AFTER_SECONDS": "7200", "STATE_ARCHIVE_ENABLED": "false"},
        {"STATE_ARCHIVE_AFTER_SECONDS": "7200", "STATE_ARCHIVE_STORE": "none"},
        {"STATE_ARCHIVE_AFTER_SECONDS": "7200", "REDIS_HOST": "localhost"},
        {"STATE_ARCHIVE_AFTER_SECONDS": "7200", "STATE_PERSISTENCE_ENABLED": "false"},
        {"MINIO_ENDPOINT": "minio", "STATE_ARCHIVE_STORE": "embedded"},
        {"REDIS_URL": "rediss://:hidden@redis/0?ssl_cert_reqs=none", "REDIS_HOST": "another"},
        {"REDIS_URL": "redis://hidden@localhost:6379/0"},
    ],
    ids=lambda env: " ".join(env),
)
def test_validate_is_content_with_settings_that_go_together(command: Command, env: dict[str, str]) -> None:
    done = command("validate", env=env)
    assert (done.code, done.stdout, done.stderr) == (0, "the configuration is valid\n", "")


def test_security_tells_what_is_unsafe_and_names_each_variable_once(command: Command) -> None:
    unsafe = {
        "API_KEYS": "short,brief",
        "API_DEBUG": "true",
        "ENABLE_NETWORK_ISOLATION": "false",
        "ENABLE_FILESYSTEM_ISOLATION": "no",
    }
    done = command("security", env=unsafe)
    assert (done.code, done.stdout) == (1, "")
    for name in ("API_KEY", *unsafe):
        assert len(re.findall(rf"\b{name}\b", done.stderr)) == 1, name
    assert "short" not in done.stderr.replace("shorter", "")
    assert "mistakes" not in done.stderr


@pytest.mark.parametrize(
    ("origins", "code"), [("", 1), ("https://lab.example.com", 0), ("https://a.example,https://b.example", 0)]
)
def test_security_wants_the_pages_named_that_are_let_in(command: Command, origins: str, code: int) -> None:
    done = command("security", env={"API_KEY": "k" * 32, "ENABLE_CORS": "true", "CORS_ORIGINS": origins})
    assert done.code == code
    assert ("ENABLE_CORS" in done.stderr) is bool(code)


def test_security_is_content_with_a_long_key(command: Command) -> None:
    done = command("security", env={"API_KEY": "k" * 32})
    assert (done.code, done.stdout, done.stderr) == (0, "nothing unsafe was found\n", "")


@pytest.mark.parametrize(
    "env", [{"STATE_ARCHIVE_AFTER_SECONDS": "7200"}, {"STATE_TTL_SECONDS": "3600"}], ids=" ".join
)
def test_validate_warns_of_states_that_expire_before_they_are_archived(
    command: Command, env: dict[str, str]
) -> None:
    done = command("validate", env=env)
    assert (done.code, done.stdout) == (0, "the configuration is valid\n")
    assert "STATE_ARCHIVE_AFTER_SECONDS should be less than STATE_TTL_SECONDS, got " in done.stderr
    assert len(done.stderr.splitlines()) == 1


REMOTE = {"REDIS_HOST": "cache.example"}


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, []),
        ({"REDIS_HOST": "localhost"}, []),
        ({"REDIS_HOST": "127.0.0.1"}, []),
        ({"REDIS_HOST": "::1"}, []),
        (REMOTE, ["REDIS_PASSWORD"]),
        ({"REDIS_HOST": "10.0.0.7"}, ["REDIS_PASSWORD"]),
        ({**REMOTE, "STATE_STORE": "redis"}, ["REDIS_PASSWORD"]),
        ({**REMOTE, "STATE_STORE": "embedded"}, []),
        ({**REMOTE, "REDIS_PASSWORD": "p"}, []),
        ({**REMOTE, "REDIS_URL": "redis://localhost"}, []),
        ({**REMOTE, "REDIS_URL": "redis://cache.example"}, ["REDIS_URL"]),
        ({"REDIS_URL": "redis://cache.example", "REDIS_PASSWORD": "p"}, ["REDIS_URL"]),
        ({"REDIS_URL": "rediss://cache.example:6380/0"}, ["REDIS_URL"]),
        ({"REDIS_URL": "redis://cache.example", "STATE_STORE": "embedded"}, []),
        ({"REDIS_URL": "redis://p@cache.example"}, []),
        ({"REDIS_URL": "redis://user:p@cache.example"}, []),
        ({"REDIS_URL": "redis://cache.example?password=p"}, []),
        ({"REDIS_URL": "rediss://cache.example?ssl_certfile=/own.pem"}, []),
        ({"REDIS_URL": "redis://[::1]:6379"}, []),
        ({"REDIS_URL": "redis:///1"}, []),
        ({"REDIS_URL": "unix:///run/redis.sock"}, []),
        ({"STATE_STORE": "redis"}, []),
        ({"MINIO_ENDPOINT": "localhost:9000"}, ["MINIO_SECRET_KEY"]),
        ({"MINIO_ENDPOINT": "minio:9000"}, ["MINIO_SECRET_KEY"]),
        ({"MINIO_ENDPOINT": "minio:9000", "MINIO_SECRET_KEY": "another"}, []),
        ({"MINIO_ENDPOINT": "minio:9000", "STATE_ARCHIVE_STORE": "embedded"}, []),
        ({"MINIO_ENDPOINT": "minio:9000", "STATE_ARCHIVE_STORE": "none"}, []),
        ({"MINIO_ENDPOINT": "minio:9000", "STATE_ARCHIVE_ENABLED": "false"}, []),
        ({"STATE_ARCHIVE_STORE": "minio"}, ["MINIO_SECRET_KEY"]),
        ({"MINIO_SECURE": "true"}, []),
    ],
    ids=str,
)
def test_security_looks_at_the_stores_that_are_used(
    command: Command, env: dict[str, str], found: list[str]
) -> None:
    done = command("security", env={"API_KEY": "k" * 32, **env})
    assert re.findall(r"(?m)^  ([A-Z_]+): ", done.stderr) == found
    assert done.code == len(found)


@pytest.mark.parametrize("redis", ["", "REDIS_HOST", "REDIS_URL", "STATE_STORE=redis", "STATE_STORE=embedded"])
@pytest.mark.parametrize(
    "minio", ["", "MINIO_ENDPOINT", *(f"STATE_ARCHIVE_STORE={name}" for name in ("minio", "none"))]
)
@pytest.mark.parametrize("both", [False, True])
def test_what_security_takes_for_used_is_what_the_server_uses(redis: str, minio: str, both: bool) -> None:
    env = {"STATE_DIR": "/nowhere", **({"REDIS_HOST": "redis", "MINIO_ENDPOINT": "minio"} if both else {})}
    values = {"REDIS_HOST": "redis", "REDIS_URL": "redis://redis", "MINIO_ENDPOINT": "minio"}
    for text in filter(None, (redis, minio)):
        name, _, value = text.partition("=")
        env[name] = value or values[name]
    config, problems = settings.environment_config(ALL_CLASSES, env)
    stores = Stores(config=config)
    findings = settings.security_findings(settings.effective_values(ALL_CLASSES, config))
    unsafe = {finding.partition(":")[0] for finding in findings}
    assert problems == []
    assert isinstance(stores.cold, MinioStore) == ("MINIO_SECRET_KEY" in unsafe)
    remote = isinstance(stores.hot, RedisStore) and not stores.hot.place.startswith("localhost")
    assert remote == bool(unsafe & {"REDIS_PASSWORD", "REDIS_URL"})


def test_template_and_table_are_the_documents(command: Command) -> None:
    assert command("template").stdout == settings.env_template(CLASSES)
    assert command("table").stdout == settings.markdown_table(CLASSES)


def test_export_shows_what_every_variable_was_set_to_and_no_secret(command: Command) -> None:
    examples = {knob: example(knob) for knob in KNOBS}
    done = command("export", env={knob.env: text for knob, (text, _) in examples.items()})
    assert (done.code, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        knob.env: settings.MASK if knob.secret else value for knob, (_, value) in examples.items()
    }


@pytest.mark.parametrize(("variable", "code"), [({}, 0), ({"API_PORT": "no"}, 1)])
def test_the_program_ends_with_the_commands_exit_code(tmp_path: Path, variable: dict[str, str], code: int) -> None:
    argv = [sys.executable, "-m", "kernelgate", "config", "validate"]
    env = environment(tmp_path, variable)
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert (done.stdout == "the configuration is valid\n", done.stderr == "") == (code == 0, code == 0)


def test_the_secrets_are_the_keys_and_passwords() -> None:
    secrets = {"API_KEY", "API_KEYS", "REDIS_PASSWORD", "REDIS_URL", "MINIO_SECRET_KEY", "STATE_SECRET"}
    assert {knob.env for knob in KNOBS if knob.secret} == secrets


@pytest.mark.parametrize("argv", [[], ["sumary"]])
def test_an_unknown_action_is_refused_with_those_there_are(command: Command, argv: list[str]) -> None:
    done = command(*argv)
    assert (done.code, done.stdout) == (1, "")
    assert "summary, validate, security, template, table, export" in done.stderr


def test_the_stronger_source_wins(command: Command, tmp_path: Path) -> None:
    (tmp_path / "jupyter_config.py").write_text(
        "c.Executor.max_execution_time = 40\nc.Engine.timeout = 41\n"
        "c.Server.port = 42\nc.Admission.max_queued = 43\n"
    )
    (tmp_path / ".env").write_text("MAX_EXECUTION_TIME=50\nDOCKER_TIMEOUT=51\nAPI_PORT=52\n")
    env = {"MAX_EXECUTION_TIME": "60", "DOCKER_TIMEOUT": "61"}
    values = json.loads(command("export", "--Executor.max_execution_time=70", env=env).stdout)
    names = ("MAX_EXECUTION_TIME", "DOCKER_TIMEOUT", "API_PORT", "MAX_QUEUED_EXECUTIONS")
    assert [values[name] for name in names] == [70, 61, 52, 43]


def test_the_configuration_file_of_the_checkout_is_valid(command: Command, tmp_path: Path) -> None:
    (tmp_path / "jupyter_config.py").write_text((ROOT / "jupyter_config.py").read_text(encoding="utf-8"))
    done = command("validate")
    assert (done.code, done.stdout, done.stderr) == (0, "the configuration is valid\n", "")
    (tmp_path / "jupyter_config.py").write_text("c.Server.port = 'a'")
    assert command("validate").code == 1
