"""Publishing the registry: small originals in published layouts, to a loopback Hub."""

from __future__ import annotations

import json
from dataclasses import replace
from unittest import mock

import pytest

from ct_video_hf.hub import publishing
from ct_video_hf.models import get_backbone
from scripts.publish_backbones import main
from tests.cli.test_convert import ORIGINALS, published_file
from tests.support.checkpoint_server import CheckpointServer
from tests.support.hub_client import client_of
from tests.support.hub_server import HubServer

NAMES = ("r3d_18", "slow_r50", "x3d_s")


@pytest.fixture
def registry():
    """Three rows in the sizes of their small originals, each with its file on a server; PENet."""
    rows, servers = {"penet": get_backbone("penet")}, {}
    for name in NAMES:
        _, content = published_file(name)
        servers[name] = CheckpointServer(content, f"{name}.pyth")
        record, original = get_backbone(name), ORIGINALS[name]
        first = next(iter(record.weights))
        frames, side, _ = original.clips[0]
        weights = {first: replace(record.weights[first], url=servers[name].url, sha256=None)}
        sizes = dict(record.overrides) | dict(original.sizes)
        sizes |= {"num_frames": frames, "image_size": side}
        rows[name] = replace(record, overrides=sizes, weights=weights)
    known = mock.Mock(side_effect=rows.__getitem__)
    with (
        mock.patch("ct_video_hf.models.registry.get_backbone", known),
        mock.patch("ct_video_hf.models.get_backbone", known),
        mock.patch("ct_video_hf.models.list_backbones", return_value=sorted(rows)),
    ):
        yield servers
    for server in servers.values():
        server.close()


def test_one_failing_row_stops_no_other_and_nothing_goes_twice(registry, tmp_path, capsys):
    words = ["--namespace", "tester", "--work", str(tmp_path / "work")]
    words += ["--cache-dir", str(tmp_path / "cache")]
    with HubServer(tmp_path / "hub") as hub, client_of(hub):
        assert main([*words, "--dry-run"]) == 0
        said = capsys.readouterr().out
        assert "4 rows; nothing was downloaded or sent" in said
        assert "none is stated, so they may not be passed on" in said
        assert hub.log == []
        assert not any(server.log for server in registry.values())

        registry["slow_r50"].status = 404
        assert main(words) == 1
        said = capsys.readouterr().out
        assert "2 pushed, 1 not allowed, 1 failed" in said
        assert "answered 404" in said
        card = hub.files("tester/x3d-s-kinetics")["README.md"].decode()
        assert 'from_pretrained("tester/x3d-s-kinetics"' in card
        assert hub.store.load("model", "tester/slow-r50-kinetics") is None

        registry["slow_r50"].status = 200
        before = {name: hub.commits(f"tester/{name}-kinetics") for name in ("x3d-s", "r3d-18")}
        with mock.patch.object(
            publishing, "convert_checkpoint", wraps=publishing.convert_checkpoint
        ) as converted:
            assert main(words) == 0
        assert [call.args[0] for call in converted.call_args_list] == ["slow_r50"]
        assert "1 pushed, 2 there, 1 not allowed" in capsys.readouterr().out

        (tmp_path / "work" / "publishing.json").unlink()  # what the Hub holds counts, not our notes
        assert main([*words, "--only", "x3d_s", "r3d_18:kinetics"]) == 0
        assert "2 there" in capsys.readouterr().out
        for name, commits in before.items():
            assert hub.commits(f"tester/{name}-kinetics") == commits
        (collection,) = hub.collections.values()
        assert collection["private"] is True
        assert sorted(item["id"] for item in collection["items"]) == [
            "tester/r3d-18-kinetics", "tester/slow-r50-kinetics", "tester/x3d-s-kinetics",
        ]  # fmt: skip
    left = [path.name for path in (tmp_path / "work").iterdir()]
    assert left == ["publishing.json"]
    assert len(json.loads((tmp_path / "work" / "publishing.json").read_text())) == 2


def test_unknown_rows(registry, capsys):
    with pytest.raises(SystemExit) as leave:
        main(["--namespace", "tester", "--dry-run", "--only", "slow_r51"])
    assert leave.value.code == 1
    assert "no published weights of slow_r51" in capsys.readouterr().err
