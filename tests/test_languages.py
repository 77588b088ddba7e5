"""The language table: names that mean one language each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kernelgate.languages import LANGUAGES, PYTHON, Language, find_language

ROOT = Path(__file__).parent.parent


def test_ids_and_aliases_mean_one_language_each() -> None:
    names = Counter(name for language in LANGUAGES for name in (language.id, *language.aliases))
    assert [name for name, count in names.items() if count > 1] == []
    assert all(name == name.lower() and name.strip() == name and name for name in names)


@pytest.mark.parametrize("field", ["id", "kernel_name", "display_name", "image_env"])
def test_no_two_languages_share(field: str) -> None:
    values = [getattr(language, field) for language in LANGUAGES]
    assert len(set(values)) == len(values)
    assert all(values)


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.id)
def test_a_language_is_found_by_each_of_its_names(language: Language) -> None:
    for name in (language.id, *language.aliases):
        assert find_language(name) is language
        assert find_language(name.upper()) is language


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("py", PYTHON),
        ("python", PYTHON),
        ("Python3", PYTHON),
        ("", None),
        ("p", None),
        ("py ", None),
        ("python4", None),
        ("kernelgate-python", None),
        ("\0", None),
    ],
)
def test_only_names_find_a_language(name: str, found: Language | None) -> None:
    assert find_language(name) is found


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.id)
def test_a_language_has_what_it_takes_to_start_it(language: Language) -> None:
    assert language.argv.count("{connection_file}") == 1
    assert language.argv[0].startswith("/")
    assert language.image_env == f"LANG_{language.folder.upper()}_IMAGE"
    assert language.file_extension.startswith(".")
    assert (ROOT / "images" / language.folder / "Dockerfile").is_file()
    assert (ROOT / "kernels" / language.folder).is_dir()
