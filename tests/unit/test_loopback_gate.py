"""The gate before a loopback server, request by request."""

import pytest

from tgsbench.system.loopback import Gate, Refusal

PORT = 8317
HERE = {"Host": f"127.0.0.1:{PORT}"}


def opened():
    gate = Gate()
    cookie = gate.admit(PORT, "GET", f"{gate.folder}/", HERE)
    return gate, HERE | {"Cookie": f"theme=dark; {cookie.partition(';')[0]}"}


def test_the_first_opening_hands_out_a_pass_with_which_everything_below_is_open():
    gate, browser = opened()
    for path in ("/", "/data/runs", "/ws"):
        assert gate.admit(PORT, "GET", gate.folder + path, browser) == ""
    assert gate.admit(PORT, "POST", f"{gate.folder}/data", browser) == ""


@pytest.mark.parametrize("path", ["/data", "", "x/"])
def test_only_the_address_itself_hands_out_a_pass(path):
    gate = Gate()
    with pytest.raises(Refusal):
        gate.admit(PORT, "GET", gate.folder + path, HERE)
    with pytest.raises(Refusal):
        gate.admit(PORT, "HEAD", f"{gate.folder}/", HERE)
    assert gate.admit(PORT, "GET", f"{gate.folder}/", HERE), "it is not used up by these"


def test_the_address_opens_once():
    gate, _ = opened()
    with pytest.raises(Refusal, match="opened already"):
        gate.admit(PORT, "GET", f"{gate.folder}/", HERE)
    with pytest.raises(Refusal, match="opened already"):
        gate.admit(PORT, "GET", f"{gate.folder}/", HERE | {"Cookie": "tgsbench-pass=" + "x" * 32})


def test_no_two_gates_share_a_folder_or_a_pass():
    gate, _ = opened()
    other, browser = opened()
    assert gate.folder != other.folder
    with pytest.raises(Refusal):
        gate.admit(PORT, "GET", f"{gate.folder}/", browser)


@pytest.mark.parametrize(
    "changed",
    [
        {"Host": "rebound.example:8317"}, {"Host": "127.0.0.1"}, {"Host": "127.0.0.1:8318"}, {"Host": ""},
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:9999"},
    ],
)  # fmt: skip
def test_another_name_and_another_page_are_turned_away_even_with_the_pass(changed):
    gate, browser = opened()
    with pytest.raises(Refusal):
        gate.admit(PORT, "GET", f"{gate.folder}/", browser | changed)


def test_the_secrets_do_not_show_in_what_is_printed():
    gate, browser = opened()
    secret = browser["Cookie"].partition("tgsbench-pass=")[2]
    assert secret and secret not in repr(gate)
