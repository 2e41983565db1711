"""Sign-in: with a real provider (a small one of ours), a real server and a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from joserfc.jwk import RSAKey
from playwright.sync_api import Browser, Page, expect
from streamlit import config
from streamlit.runtime.secrets import secrets_singleton
from streamlit.testing.v1 import AppTest

from jobs.sandbox.environment import of_workers
from jobs.version import ROOT
from tests import browser as driver
from tests.browser import Server, settled
from tests.open_id import ID, SECRET, Provider, provider

COOKIE_SECRET = "what-cookies-are-signed-with-0123456789"
ASKED = "explore?model=zoo/chain&mode=training&depth=3"
REFUSED = "Sign-in is not set up completely"


def written(folder: Path, address: str, **more: str) -> Path:
    """A file of secrets for a provider."""
    path = folder / "secrets.toml"
    keys = {
        "redirect_uri": "http://127.0.0.1:{port}/oauth2callback",
        "cookie_secret": COOKIE_SECRET,
        "client_id": ID,
        "client_secret": SECRET,
        "server_metadata_url": f"{address}/.well-known/openid-configuration",
    }
    path.write_text("[auth]\n" + "".join(f'{name} = "{value}"\n' for name, value in (keys | more).items()))
    return path


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "server.log"


@pytest.fixture(scope="module")
def known() -> Iterator[Provider]:
    with provider() as running:
        yield running


@pytest.fixture(scope="module")
def server(known: Provider, log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("data")
    with driver.server(folder, f"--secrets.files={written(folder, known.address)}", log=log) as running:
        yield running


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context()
    yield context.new_page()
    context.close()


def asks(page: Page) -> None:
    """The page asks to sign in, and shows nothing else."""
    settled(page)
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    assert page.get_by_test_id("stSidebarNavLink").count() == page.locator(".graph-view").count() == 0


def test_nothing_is_shown_before_sign_in_everything_after_it_and_nothing_after_sign_out(
    server: Server, known: Provider, page: Page, log: Path
) -> None:
    page.goto(f"{server.address}/{ASKED}")
    asks(page)
    page.get_by_role("button", name="Sign in").click()
    page.locator(".graph-view g.leaf").first.wait_for()
    assert page.url.endswith(ASKED)  # what was asked for before is shown, not the first page
    expect(page.get_by_text("Signed in: Ada *Lovelace*")).to_be_visible()
    for cookie in page.context.cookies():
        assert cookie["name"] in ("_streamlit_xsrf", "_xsrf") or (cookie["httpOnly"] and cookie["sameSite"] == "Lax"), cookie["name"]
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in").wait_for()
    page.goto(f"{server.address}/{ASKED}")
    asks(page)
    said = log.read_text()
    assert "URL:" in said  # the log is the right one
    hidden = [SECRET, COOKIE_SECRET, *known.given, "zoo/chain", "Lovelace"]
    assert len(hidden) == 7  # with a code and two tokens
    assert [secret for secret in hidden if secret in said] == []


def test_a_token_that_somebody_else_signed_lets_nobody_in(
    server: Server, known: Provider, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "key", RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"}))
    page.goto(server.address)
    asks(page)
    given = len(known.given)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile("/$"))
    asks(page)
    assert len(known.given) == given + 3  # it came as far as that


# Without a browser


@pytest.fixture
def secrets(tmp_path: Path) -> Iterator[Path]:
    """Where Streamlit looks for secrets in this test."""
    before = config.get_option("secrets.files")
    config.set_option("secrets.files", [str(tmp_path / "secrets.toml")])
    secrets_singleton._reset()
    yield tmp_path / "secrets.toml"
    config.set_option("secrets.files", before)
    secrets_singleton._reset()


def first_page() -> AppTest:
    return AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()


@pytest.mark.usefixtures("default_client")
def test_a_file_of_secrets_that_cannot_be_read_lets_nobody_in(secrets: Path) -> None:
    assert first_page().header[0].value == "Explore"  # there is no file: no sign-in
    secrets.write_text("[auth\n")
    app = first_page()
    assert "nobody can be signed in" in app.error[0].value
    assert not app.header


@pytest.mark.usefixtures("default_client")
def test_incomplete_sign_in_says_so_without_what_is_there_and_lets_nobody_in(secrets: Path) -> None:
    written(secrets.parent, "http://127.0.0.1:1", client_id="")
    secrets.write_text(secrets.read_text().replace("client_id", "client"))
    app = first_page()
    app.button(key="sign in ").click().run()
    assert not app.exception
    assert REFUSED in app.error[0].value
    assert SECRET not in app.error[0].value
    assert [header.value for header in app.header] == ["fxscope"]


@pytest.mark.usefixtures("default_client")
def test_each_provider_with_a_section_has_a_button(secrets: Path) -> None:
    sections = "".join(f'[auth.{name}]\nclient_id = "x"\nclient_secret = "x"\nserver_metadata_url = "x"\n' for name in ("school", "lab"))
    secrets.write_text(f'[auth]\nredirect_uri = "http://a/oauth2callback"\ncookie_secret = "x"\n{sections}')
    assert [button.label for button in first_page().button] == ["Sign in with school", "Sign in with lab"]


def test_secrets_reach_no_worker() -> None:
    given = {"FXSCOPE_CLIENT_SECRET": SECRET, "STREAMLIT_SERVER_COOKIE_SECRET": "x", "AUTH_CLIENT_ID": "x", "FXSCOPE_DATA": "kept"}
    assert set(of_workers(given)) == {"FXSCOPE_DATA", "PYTHONPATH"}
