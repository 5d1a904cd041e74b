"""What commands say while they work."""

import io

import pytest

from ripe.cli.progress import stage_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_stages_are_named_on_a_terminal_alone_and_taken_away(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    with pytest.raises(ValueError, match="broken"), stage_line("match") as begin:  # noqa: PT012
        begin("read")
        begin("extract")
        raise ValueError("broken")
    erase = "\r\x1b[K"
    shown = f"{erase}match: read …{erase}match: extract …{erase}"
    assert stream.getvalue() == (shown if stream.isatty() else "")
