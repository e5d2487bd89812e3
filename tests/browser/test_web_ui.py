"""`tgsbench tui --serve` in a real browser: the first one that opens the address has it, alone."""

from __future__ import annotations

import importlib.util

import pytest

from tests.browser.chrome import chromium, complaints, needs_chromium, requests, wait
from tests.contract.test_loopback import started

pytestmark = [
    pytest.mark.browser,
    needs_chromium,
    pytest.mark.skipif(importlib.util.find_spec("selenium") is None, reason="needs selenium"),
    pytest.mark.skipif(importlib.util.find_spec("textual_serve") is None, reason="needs tgsbench[serve]"),
]
BODY = "return document.body.innerText"
STATE = "return document.body.className"


def test_a_browser_gets_the_ui_by_the_printed_address_and_a_second_one_does_not(tmp_path):
    with started(tmp_path, "tui", "--serve") as (port, address, _):
        with chromium() as first:
            first.get(address)
            wait(first, lambda: "-first-byte" in first.execute_script(STATE), "bytes of the UI")
            first.refresh()
            wait(first, lambda: "-first-byte" in first.execute_script(STATE), "the UI again")
            sockets = [url for url in requests(first) if not url.startswith(f"http://127.0.0.1:{port}")]
            assert [url for url in sockets if not url.startswith(("data:", "blob:"))] == []
            assert complaints(first) == []
            first.get(f"http://127.0.0.1:{port}/")
            assert "open the whole address" in first.execute_script(BODY)
        with chromium() as second:
            second.get(address)
            assert "opened already" in second.execute_script(BODY)
