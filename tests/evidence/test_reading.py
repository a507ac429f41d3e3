import gzip
import json

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from canary.errors import ObservationError
from canary.evidence.observation import to_table
from canary.evidence.reading import read_observations
from canary.testing import observe

CSV = """request_id,arm,arrived_s,status,prompt_tokens,latency_s,score,note
a,baseline,0,ok,100,0.5,,x
a,candidate,0,timeout,100,,0.5,y
"""


@pytest.mark.parametrize(
    "name", ["rows.csv", "rows.csv.gz", "rows.jsonl", "rows.parquet"]
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    """CSV, gzip, JSON lines and Parquet give the same; unknown columns are left out."""
    path = tmp_path / name
    header, *lines = [line.split(",") for line in CSV.splitlines()]
    if name == "rows.parquet":
        rows = observe(arm="baseline", arrived_s=[0.0], request_id="a", latency_s=0.5)
        rows += observe(
            arm="candidate",
            arrived_s=[0.0],
            request_id="a",
            status="timeout",
            score=0.5,
        )
        pq.write_table(to_table(rows), path)
    elif name == "rows.jsonl":
        numbers = {"arrived_s", "prompt_tokens", "latency_s", "score"}
        records = [
            {
                k: float(v) if k in numbers else v
                for k, v in zip(header, line, strict=True)
                if v
            }
            for line in lines
        ]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        content = CSV.encode()
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)

    table = read_observations(path)

    assert ["baseline", "candidate"] == table["arm"].to_pylist()
    assert ["ok", "timeout"] == table["status"].to_pylist()
    assert [0.5, None] == table["latency_s"].to_pylist()
    assert [None, 0.5] == table["score"].to_pylist()
    assert "note" not in table.column_names


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("status", "state", "lacks the required column status; it has request_id, arm"),
        ("timeout", "slow", "row 2: status can't be 'slow'; write one of ok, timeout"),
        (",0.5,y", ",1.5,y", "row 2: score can't be 1.5; write a number from 0 to 1"),
        ("0.5,,x", "-1,,x", "row 1: latency_s can't be -1.0; write seconds"),
        ("a,candidate,0", ",candidate,0", "row 2: request_id is empty"),
        ("candidate,0,", "candidate,inf,", "row 2: arrived_s can't be inf"),
        ("ok,100", "ok,many", "can't be read"),
        ("ok,100", "ok,-5", "row 1: prompt_tokens can't be -5"),
    ],
)
def test_a_wrong_value_is_named_with_its_row(tmp_path, old, new, message):
    """What a column can't have is refused with row, column, value and remedy."""
    path = tmp_path / "rows.csv"
    path.write_text(CSV.replace(old, new, 1))

    with pytest.raises(ObservationError) as caught:
        read_observations(path)

    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", ["1", "1.0", "0", ""])
def test_an_answer_agrees_or_it_does_not(tmp_path, value):
    """Agreement is 1 or 0; empty stays unknown and never becomes 0."""
    path = tmp_path / "rows.csv"
    csv = CSV.replace("note", "agreement").replace(",x", ",")
    path.write_text(csv.replace(",y", f",{value}"))

    expected = [None, float(value) if value else None]
    assert expected == read_observations(path)["agreement"].to_pylist()


@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, float("nan")])
def test_an_answer_that_half_agrees_is_refused(tmp_path, value):
    """A share of agreement is a score, and what isn't known is left empty."""
    path = tmp_path / "rows.parquet"
    pq.write_table(to_table(observe(arm="a", arrived_s=[0.0], agreement=value)), path)

    with pytest.raises(ObservationError) as caught:
        read_observations(path)

    remedy = "write 1 for the baseline's answer, 0 for another, or leave it empty"
    assert f"{path}: row 1: agreement can't be {value}; {remedy}" == str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "remedy"),
    [
        ("score", float("nan"), "write a number from 0 to 1"),
        ("weight", 0.0, "write how many requests it stands for, above 0"),
        ("weight", float("inf"), "write how many requests it stands for, above 0"),
        ("ttft_send_s", float("nan"), "write seconds, or leave it empty"),
        ("output_tokens", -1, "write a number of tokens, or leave it empty"),
        ("peak_memory_bytes", -1, "write a number of bytes, or leave it empty"),
    ],
)
def test_a_value_that_cannot_be_is_refused(tmp_path, column, value, remedy):
    """What is no number, or below nothing, is named with its row, not left out."""
    path = tmp_path / "rows.parquet"
    rows = observe(arm="a", arrived_s=[0.0, 1.0], **{column: [1, value]})
    pq.write_table(to_table(rows), path)

    with pytest.raises(ObservationError) as caught:
        read_observations(path)

    assert f"{path}: row 2: {column} can't be {value!r}; {remedy}" in str(caught.value)


def test_arrivals_count_from_the_first(tmp_path):
    """Unix time is as good as any: what counts is the distance."""
    path = tmp_path / "rows.csv"
    path.write_text(
        "request_id,arm,arrived_s,status,prompt_tokens\n"
        "a,baseline,1700000000.5,ok,1\nb,baseline,1700000002,ok,1\n"
    )

    assert [0.0, 1.5] == read_observations(path)["arrived_s"].to_pylist()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "holds no observations"),
        ("a,baseline,0,ok,1,validation\n", "kind can't be 'validation'; write quality"),
    ],
)
def test_rows_that_would_count_nowhere_are_refused(tmp_path, rows, message):
    """No rows, or rows of a kind that nothing asks for, are told at once."""
    path = tmp_path / "rows.csv"
    path.write_text("request_id,arm,arrived_s,status,prompt_tokens,kind\n" + rows)

    with pytest.raises(ObservationError, match=message):
        read_observations(path)


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    """A file whose name says nothing known is refused, with what is known."""
    path = tmp_path / "rows.xlsx"
    path.write_bytes(b"x")

    with pytest.raises(ObservationError, match=r"write \.parquet, \.csv or \.jsonl"):
        read_observations(path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    """A folder that no run has written is named as such."""
    with pytest.raises(ObservationError, match="not a run folder"):
        read_observations(tmp_path)


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode),
    suffix=st.sampled_from(["csv", "jsonl", "parquet", "csv.gz"]),
)
@example(content=b"\x80\n", suffix="csv")
def test_garbage_is_one_sentence(tmp_path_factory, content, suffix):
    """Whatever a file holds, it is read or refused, and never a traceback."""
    path = tmp_path_factory.mktemp("garbage") / f"rows.{suffix}"
    path.write_bytes(content)

    try:
        said = str(read_observations(path).schema)
    except ObservationError as error:
        said = str(error)

    assert said.startswith((str(path), "request_id: string"))
