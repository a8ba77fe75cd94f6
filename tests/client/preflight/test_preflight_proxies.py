"""Which proxy is used is what httpx, which the gateway uses, decides in the same environment."""

import os
from unittest.mock import patch

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client import relay
from client.preflight.findings import Problem
from client.preflight.route import Hub, Proxy, proxy_for

HUBS = (
    Hub("hub.example.org", 443),
    Hub("hub.example.org", 8443),
    Hub("127.0.0.1", 443),
    Hub("192.168.0.7", 443),
    Hub("::1", 8443),
    Hub("localhost", 443),
)
URLS = ("", "http://p1.example:3128", "p2.example:8080", "https://p3.example", "http://user:pw@p4.example")
EXCEPTIONS = (
    *("hub.example.org", ".example.org", "example.org", "org", "*.example.org", " example.org ", "xhub.example.org"),
    *("hub.example.org:443", "hub.example.org:8443", "HUB.example.org", "https://hub.example.org", "http://hub.example.org"),
    *("192.168.0.7", "192.168.0.0/16", "::1", "localhost", "*", ""),
)
environments = st.fixed_dictionaries(
    {},
    optional={
        "HTTPS_PROXY": st.sampled_from(URLS),
        "https_proxy": st.sampled_from(URLS),
        "ALL_PROXY": st.sampled_from(URLS),
        "HTTP_PROXY": st.sampled_from(URLS),
        "no_proxy": st.lists(st.sampled_from(EXCEPTIONS), max_size=3).map(",".join),
        "NO_PROXY": st.lists(st.sampled_from(EXCEPTIONS), max_size=3).map(",".join),
    },
)


def httpx_says(hub: Hub) -> str | None:
    """scheme://host:port of the proxy that the gateway's client would use."""
    with patch.dict(os.environ, relay._proxy_exceptions()), httpx.Client(verify=False) as client:  # noqa: S501 - no connection is made
        transport = client._transport_for_url(httpx.URL(f"https://{hub}"))
        url = getattr(transport._pool, "_proxy_url", None)  # type: ignore[attr-defined]
        if url is None:
            return None
        return f"{url.scheme.decode()}://{url.host.decode()}:{url.port or {'http': 80, 'https': 443}[url.scheme.decode()]}"


@settings(max_examples=50, deadline=None)
@given(environments, st.sampled_from(HUBS))
@example(
    {"HTTPS_PROXY": "http://p1.example:3128", "NO_PROXY": "hub.example.org:443"}, HUBS[0]
)  # a port in NO_PROXY never matches 443
def test_the_proxy_is_the_one_that_httpx_takes(environment: dict[str, str], hub: Hub) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with patch.dict(os.environ, {**clean, **environment}, clear=True):
        found = proxy_for(hub)
        assert (None if found is None else str(found)) == httpx_says(hub)


def test_a_login_is_never_shown() -> None:
    proxy = Proxy("http", "p", 1, "user:secret")
    assert "secret" not in f"{proxy} {proxy!r}"


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"])
def test_what_stops_httpx_is_a_problem_whatever_variable_it_is_in(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """httpx makes a transport for each of them at once, and so the gateway would not even start."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv(variable, "socks5://127.0.0.1:1080")
    with pytest.raises(Problem, match=variable):
        proxy_for(Hub("hub.example.org", 443))
    with pytest.raises((ImportError, ValueError)):
        httpx.Client()
