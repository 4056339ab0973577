"""Sources of the configuration and their precedence."""

from __future__ import annotations

from pathlib import Path

import pytest

from niyanta.client.config import config_path, resolve
from niyanta.client.errors import UsageError

pytestmark = pytest.mark.unit

FILE = """
url = "https://file.example/"
key = "nyt_file_1"

[profiles.staging]
url = "https://staging.example"
key = "nyt_staging_1"

[profiles.keyless]
url = "https://elsewhere.example"

[profiles.patient]
retry_seconds = 300
"""


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose configuration file is FILE."""
    folder = tmp_path / "niyanta"
    folder.mkdir()
    (folder / "config.toml").write_text(FILE)
    (folder / "config.toml").chmod(0o600)
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def test_flags_override_variables_and_variables_override_the_file(home: dict[str, str]) -> None:
    assert resolve({}, environ=home).url == "https://file.example"
    with_variable = {**home, "NIYANTA_API_URL": "https://variable.example"}
    assert resolve({}, environ=with_variable).url == "https://variable.example"
    assert resolve({"url": "https://flag.example"}, environ=with_variable).url == "https://flag.example"
    assert resolve({"url": "https://flag.example"}, environ=with_variable).key == "nyt_file_1"


def test_the_file_is_in_the_xdg_folder_or_where_niyanta_config_says() -> None:
    assert config_path({"XDG_CONFIG_HOME": "/x"}) == Path("/x/niyanta/config.toml")
    assert config_path({"XDG_CONFIG_HOME": "relative"}) == Path.home() / ".config/niyanta/config.toml"
    assert config_path({"NIYANTA_CONFIG": "/y/z.toml", "XDG_CONFIG_HOME": "/x"}) == Path("/y/z.toml")


def test_a_profile_is_chosen_by_flag_variable_or_file(home: dict[str, str]) -> None:
    assert resolve({}, profile="staging", environ=home).key == "nyt_staging_1"
    assert resolve({}, environ={**home, "NIYANTA_PROFILE": "staging"}).url == "https://staging.example"
    file = Path(home["XDG_CONFIG_HOME"]) / "niyanta/config.toml"
    file.write_text(f'profile = "patient"\n{FILE}')
    patient = resolve({}, environ=home)
    assert (patient.url, patient.retry_seconds) == ("https://file.example", 300)


def test_a_profile_with_its_own_address_does_not_use_the_general_key(home: dict[str, str]) -> None:
    assert resolve({}, profile="keyless", environ=home).key == ""


def test_a_file_with_a_key_that_others_can_read_gives_a_warning(home: dict[str, str]) -> None:
    file = Path(home["XDG_CONFIG_HOME"]) / "niyanta/config.toml"
    assert resolve({}, environ=home).warnings == ()
    file.chmod(0o644)
    (warning,) = resolve({}, environ=home).warnings
    assert "chmod 600" in warning
    file.write_text('url = "https://file.example"')
    assert resolve({}, environ=home).warnings == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("url = ", "is not valid TOML"),
        ('adress = "x"', "unknown key adress"),
        ("url = 5", "url must be a string"),
        ('[profiles.a]\nurl = "x"\nport = 1', "unknown key profiles.a.port"),
        ('url = "ftp://x"', "is not the address of a server"),
        ('url = "https://"', "is not the address of a server"),
        ('url = "https://x"\nkey = "a b"', "invalid characters"),
        ('url = "https://x"\nca_file = "/nowhere/ca.pem"', "the CA file /nowhere/ca.pem doesn't exist"),
        ('url = "https://x"\nretry_seconds = -1', "retry_seconds"),
        ('profile = "none"', "no profile 'none'"),
        ("", "no server is configured"),
    ],
)
def test_an_invalid_file_is_refused_with_a_reason(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as refusal:
        resolve({}, environ={"NIYANTA_CONFIG": str(file)})
    assert words in " ".join((str(refusal.value), *refusal.value.notes))


def test_a_file_named_by_the_variable_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the configuration file .* doesn't exist"):
        resolve({"url": "https://x"}, environ={"NIYANTA_CONFIG": str(tmp_path / "none.toml")})
    with pytest.raises(UsageError, match="no profile 'a'"):
        resolve({"url": "https://x"}, profile="a", environ={"XDG_CONFIG_HOME": str(tmp_path)})
