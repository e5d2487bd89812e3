"""Formats of corpus files, told by their first row."""

from __future__ import annotations

import json

import pytest

from tgsbench.errors import ExitCode, TgsError
from tgsbench.workload.rows import CorpusRow, read_file

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "One?"}, {"type": "image"}]},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "Thanks."},
]
SHARED = [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "1"}]


def written(tmp_path, *rows, name="rows.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "read"),
    [
        ({"messages": TURNS}, CorpusRow("Be brief.\nOne?\n1\nTwo?", "", "2")),
        ({"conversations": SHARED}, CorpusRow("One?", "", "1")),
        ({"text": "Once."}, CorpusRow("", "", "Once.")),
        ({"instruction": "a", "output": "b", "text": "all of it"}, CorpusRow("a", "", "b")),
    ],
)
def test_a_row_of_each_format_is_read(tmp_path, row, read):
    assert read_file(written(tmp_path, row)) == [read]


def test_a_csv_names_its_columns(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('instruction,output\n"two\nlines",b\nc,d\n')
    assert read_file(path) == [CorpusRow("two\nlines", "", "b"), CorpusRow("c", "", "d")]
    path.write_text('text\n"open')
    with pytest.raises(TgsError, match=r"rows\.csv:2: not valid CSV"):
        read_file(path)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ({"text": "a"}, r'rows\.jsonl:2: "messages" is missing, which the first row has'),
        ({"messages": []}, r"rows\.jsonl:2: expected a list of turns"),
        ({"messages": [{"role": "user", "content": "a"}]}, r"rows\.jsonl:2: no turn is an answer"),
        ({"messages": [TURNS[0], {"role": "user"}]}, r"rows\.jsonl:2: turn 2 of 2: expected role"),
    ],
)
def test_problems_carry_file_and_line(tmp_path, second, why):
    with pytest.raises(TgsError, match=why) as caught:
        read_file(written(tmp_path, {"messages": TURNS}, second))
    assert caught.value.exit_code == ExitCode.BAD_DATA
