"""Published weights: fetched once, resumed, verified, read safely and mapped strictly."""

from __future__ import annotations

import email.utils
import hashlib
import io
import itertools
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from ct_video_hf.models import DownloadError, create_model, download, get_backbone, list_backbones
from ct_video_hf.models.download import cached_path, fetch
from ct_video_hf.models.records import Layout
from ct_video_hf.models.weights import (
    inflate_channels,
    layout_of,
    load_published,
    map_keys,
    read_checkpoint,
)
from tests.support.checkpoint_server import CheckpointServer
from tests.support.tiny_runs import environment

from .backbone_cases import tiny_clip, tiny_model

PUBLISHED = [name for name in list_backbones() if get_backbone(name).weights]


def published_state(name, labels=400):
    """The tiny model's weights under the published keys, and the model itself."""
    model = tiny_model(name, num_labels=labels)
    back = [(ours, theirs) for theirs, ours in get_backbone(name).key_map]
    state = map_keys(model.state_dict(), tuple(back))
    assert not state.keys() & model.state_dict().keys()
    return state, model


# ---- reading and mapping ------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("layout", ["plain", "model_state", "state_dict", "module", "safetensors"])
def test_published_layouts_load(name, layout, tmp_path):
    state, model = published_state(name)
    path = tmp_path / ("weights.safetensors" if layout == "safetensors" else "weights.pyth")
    if layout == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    elif layout == "plain":
        torch.save(state, path)
    elif layout == "module":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    else:
        torch.save({layout: state, "cfg": "text"}, path)
    tiny = get_backbone(name).tiny
    ours = create_model(name, num_labels=400, weights=path, **tiny)
    clip = tiny_clip(name, model=model)
    with torch.no_grad():
        assert torch.equal(ours(clip).logits, model(clip).logits)
    binary = create_model(name, weights=path, **tiny)
    with torch.no_grad():
        assert torch.equal(binary(clip).pooler_output, model(clip).pooler_output)
    assert binary.classifier.weight.shape[0] == 1
    assert 0 < binary.classifier.weight.std() < 0.1
    assert not binary.training


def test_every_misfit_is_listed_and_the_model_left_alone():
    state, _ = published_state("slow_r50")
    record = get_backbone("slow_r50")
    model = create_model("slow_r50", **record.tiny)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lost = dict(state)
    del lost["blocks.2.res_blocks.1.branch2.conv_b.weight"]
    lost["blocks.9.extra"] = torch.zeros(1)
    lost["blocks.1.res_blocks.0.branch2.conv_a.weight"] = torch.zeros(2, 2, 1, 1, 1)
    with pytest.raises(ValueError, match="does not fit slow_r50") as caught:
        load_published(model, lost, record)
    text = str(caught.value)
    assert "Missing: backbone.blocks.2.res_blocks.1.branch2.conv_b.weight." in text
    assert "Unexpected: backbone.blocks.9.extra." in text
    assert "conv_a.weight (2, 2, 1, 1, 1) instead of" in text
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_further_layout_is_known_by_its_sign_and_as_strict():
    """Renamed, doubled and surplus keys as self-supervised checkpoints have them."""
    state, model = published_state("slow_r50")
    query = tuple((f"query.{theirs}", ours) for theirs, ours in get_backbone("slow_r50").key_map)
    double = (("double.", "backbone.blocks.0."),)
    layout = Layout("momentum", "query.", query + double, ("key.*", "*_table"), {"bottleneck": 4})
    record = replace(get_backbone("slow_r50"), layouts=(layout,))
    given = {f"query.{key}": value for key, value in state.items()}
    given |= {"key.blocks.0": torch.zeros(1), "query.blocks.1.a_table": torch.zeros(1)}
    given["double.conv.weight"] = state["blocks.0.conv.weight"].clone()
    assert layout_of(given, record) is layout
    assert layout_of(state, record).key_map == record.key_map
    ours = create_model("slow_r50", 400, **record.tiny)
    assert load_published(ours, given, record) == []
    for key, value in model.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key
    with pytest.raises(ValueError, match=r"Unexpected: query\.other"):
        load_published(ours, given | {"query.other": torch.zeros(1)}, record)
    with pytest.raises(ValueError, match=r"blocks\.0\.conv\.weight twice with different values"):
        load_published(ours, given | {"double.conv.weight": torch.zeros(1)}, record)
    other = replace(record, layouts=(replace(layout, config={"bottleneck": 8}),))
    with pytest.raises(ValueError, match=r"momentum layout need a slow_r50 with bottleneck=8"):
        load_published(ours, given, other)


def test_weights_without_an_address_are_never_downloaded(monkeypatch):
    backbone = get_backbone("slow_r50")
    unlicensed = replace(backbone.weights["kinetics"], url=None, weight_license="none stated")
    private = replace(backbone, weights={"kinetics": unlicensed})
    monkeypatch.setattr("ct_video_hf.models.registry.get_backbone", lambda name: private)
    with pytest.raises(ValueError, match=r"never downloaded: none stated\. Convert a file of your"):
        create_model("slow_r50", weights="kinetics", **backbone.tiny)
    with pytest.raises(ValueError, match="no address"):
        fetch(unlicensed)


def test_another_networks_checkpoint_is_refused(tmp_path):
    state, _ = published_state("x3d_s")
    torch.save({"model_state": state}, tmp_path / "x3d.pyth")
    with pytest.raises(ValueError, match="does not fit slow_r50"):
        create_model("slow_r50", weights=tmp_path / "x3d.pyth", **get_backbone("slow_r50").tiny)


class Trap:
    def __reduce__(self):
        return (print, ("code of a checkpoint ran",))


def test_pickled_code_damage_and_other_files_are_refused(tmp_path, capsys):
    trap = tmp_path / "trap.pyth"
    torch.save({"model_state": {"a": torch.zeros(1)}, "hook": Trap()}, trap)
    with pytest.raises(ValueError, match="never loaded"):
        read_checkpoint(trap)
    numbers = tmp_path / "numbers.pyth"  # an accuracy as NumPy gives it is no code
    score = {"acc": np.float32(0.7), "best": np.float64(0.8), "epoch": np.int64(3)}
    torch.save({"model_state": {"a": torch.ones(1)}, **score}, numbers)
    assert read_checkpoint(numbers) == {"a": torch.ones(1)}
    assert "ran" not in capsys.readouterr().out
    state, _ = published_state("slow_r50")
    whole = tmp_path / "whole.pyth"
    torch.save(state, whole)
    data = whole.read_bytes()
    cases = {
        "cut.pyth": data[: len(data) // 2],
        "empty.pyth": b"",
        "text.pyth": b"<html>404</html>",
        "cut.safetensors": b"\x10\x00\x00",
    }
    for file, content in cases.items():
        (tmp_path / file).write_bytes(content)
        with pytest.raises(ValueError, match=file):
            read_checkpoint(tmp_path / file)
    torch.save([1, 2], tmp_path / "list.pyth")
    with pytest.raises(ValueError, match="holds no state dict"):
        read_checkpoint(tmp_path / "list.pyth")


def test_a_path_that_is_nothing_names_the_published_weights():
    with pytest.raises(ValueError, match=r"neither a file .* \(published: 'kinetics'\)"):
        create_model("slow_r50", weights="kinetic")
    with pytest.raises(ValueError, match=r"\(published: none\)"):
        create_model("slow_tiny", weights="kinetics")


# ---- channels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_summed_inflation_keeps_the_response_to_a_repeated_channel(name, tmp_path):
    state, model = published_state(name)
    torch.save(state, tmp_path / "w.pyth")
    tiny = get_backbone(name).tiny
    single = tiny_clip(name, model=model)[:, :, :1]
    with torch.no_grad():
        expected = model(single.repeat(1, 1, 3, 1, 1)).logits
        for channels in (1, 2, 4):
            ours = create_model(name, 400, tmp_path / "w.pyth", num_channels=channels, **tiny)
            found = ours(single.repeat(1, 1, channels, 1, 1)).logits
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_inflation_by_mean_and_unknown_names():
    weight = torch.randn(4, 3, 1, 3, 3)
    assert inflate_channels(weight, 3) is weight
    torch.testing.assert_close(inflate_channels(weight, 1), weight.sum(1, keepdim=True))
    mean = inflate_channels(weight, 5, "mean")
    assert mean.shape == (4, 5, 1, 3, 3)
    torch.testing.assert_close(mean[:, 4], weight.mean(1))
    with pytest.raises(ValueError, match="allowed: sum, mean"):
        inflate_channels(weight, 5, "max")


# ---- our own folders -----------------------------------------------------------------------------


def test_weights_from_a_saved_folder(tmp_path):
    model = tiny_model("slow_r50", num_labels=2)
    model.save_pretrained(tmp_path)
    clip = tiny_clip("slow_r50", model=model)
    again = create_model("slow_r50", num_labels=2, weights=tmp_path)
    with torch.no_grad():
        assert torch.equal(again(clip).logits, model(clip).logits)
    other = create_model("slow_r50", num_labels=3, weights=tmp_path, dropout=0.25)
    assert other.config.num_labels == 3
    assert other.config.dropout == 0.25
    with torch.no_grad():
        assert torch.equal(other(clip).pooler_output, model(clip).pooler_output)
    with pytest.raises(ValueError, match="type 'ct_slow'; x3d_s is 'ct_x3d'"):
        create_model("x3d_s", weights=tmp_path)
    with pytest.raises(ValueError, match="does not fit slow_r50"):
        create_model("slow_r50", weights=tmp_path, widths=[8, 16, 16, 32])
    with pytest.raises(ValueError, match="no field wdths"):
        create_model("slow_r50", weights=tmp_path, wdths=[8])


# ---- downloads ----------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    state, _ = published_state("slow_r50")
    buffer = io.BytesIO()
    torch.save({"model_state": state}, buffer)
    server = CheckpointServer(buffer.getvalue())
    yield server
    server.close()


@pytest.fixture
def record(server):
    published = get_backbone("slow_r50").weights["kinetics"]
    return replace(published, url=server.url)


def test_one_download_then_the_cache(server, record, tmp_path):
    path = fetch(record, tmp_path)
    assert path.read_bytes() == server.content
    assert fetch(record, tmp_path) == path
    assert server.log == [None]
    pin = tmp_path / "SLOW.pyth.sha256"
    assert pin.read_text().strip() == hashlib.sha256(server.content).hexdigest()
    leftovers = {item.name for item in tmp_path.iterdir()} - {"SLOW.pyth.lock"}
    assert leftovers == {"SLOW.pyth", "SLOW.pyth.sha256"}


def test_kinetics_by_name_downloads_loads_and_uses_the_cache(server, record, tmp_path, monkeypatch):
    backbone = get_backbone("slow_r50")
    fake = replace(backbone, weights={"kinetics": record})
    monkeypatch.setattr("ct_video_hf.models.registry.get_backbone", lambda name: fake)
    _, model = published_state("slow_r50")
    clip = tiny_clip("slow_r50", model=model)
    for labels in (400, 1):
        ours = create_model(
            "slow_r50", labels, weights="kinetics", cache_dir=tmp_path, **backbone.tiny
        )
        with torch.no_grad():
            assert torch.equal(ours(clip).pooler_output, model(clip).pooler_output)
    assert len(server.log) == 1


def test_a_cut_download_goes_on_where_it_stopped(server, record, tmp_path):
    server.cut_at, server.cuts = 20_000, 2
    assert fetch(record, tmp_path).read_bytes() == server.content
    assert server.log == [None, "bytes=20000-", "bytes=40000-"]


def test_a_later_process_goes_on_too(server, record, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.cut_at, server.cuts = 30_000, 1
    server_down_after_the_cut(server, monkeypatch)
    with pytest.raises(DownloadError, match=r"1 attempts in a row brought nothing.*goes on"):
        fetch(record, tmp_path)
    server.status = 200
    assert not cached_path(record, tmp_path).exists()
    fetch(record, tmp_path)
    assert server.log == [None, "bytes=30000-", "bytes=30000-"]


def server_down_after_the_cut(server, monkeypatch):
    """The pause after the first failure is when the server goes."""
    monkeypatch.setattr(download, "time", clock(lambda _: setattr(server, "status", 503)))


def clock(sleep):
    """A ``time`` for one module alone: threads that other tests have left may sleep as well."""
    return SimpleNamespace(sleep=sleep, time=time.time)


def test_a_file_exchanged_in_between_is_not_glued(server, record, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    server.cut_at, server.cuts = 30_000, 1
    server_down_after_the_cut(server, monkeypatch)
    with pytest.raises(DownloadError):
        fetch(record, tmp_path)
    server.status = 200
    server.etag, server.content = '"two"', server.content[::-1]
    assert fetch(record, tmp_path).read_bytes() == server.content


def test_a_server_without_resume_starts_over(server, record, tmp_path):
    server.cut_at, server.cuts, server.etag = 20_000, 1, 'W/"weak"'
    assert fetch(record, tmp_path).read_bytes() == server.content
    assert server.log == [None, None]


def test_the_published_hash_counts(server, record, tmp_path):
    digest = hashlib.sha256(server.content).hexdigest()
    assert fetch(replace(record, sha256=digest[:8]), tmp_path / "a").exists()
    with pytest.raises(DownloadError, match=r"has sha256 .*; 00000000 was expected"):
        fetch(replace(record, sha256="00000000"), tmp_path / "b")
    assert not list((tmp_path / "b").glob("*.pyth*[!k]"))


def test_the_pinned_hash_notices_a_changed_cache(server, record, tmp_path):
    path = fetch(record, tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DownloadError, match="damaged or exchanged"):
        fetch(record, tmp_path)
    assert not path.exists()
    assert fetch(record, tmp_path).read_bytes() == server.content


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 5)])
def test_only_passing_errors_are_tried_again(server, record, tmp_path, status, requests):
    server.status = status
    with pytest.raises(DownloadError, match=str(status)):
        fetch(record, tmp_path)
    assert len(server.log) == requests


def test_the_pause_is_the_servers(server, record, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(download, "time", clock(pauses.append))
    server.status, server.failures, server.headers = 429, 2, {"Retry-After": "7"}
    assert fetch(record, tmp_path / "a").read_bytes() == server.content
    soon = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    server.failures, server.headers = 1, {"Retry-After": soon}
    fetch(record, tmp_path / "b")
    server.failures, server.headers = 1, {"Retry-After": "86400"}
    fetch(record, tmp_path / "c")
    server.failures, server.headers = 1, {"Retry-After": "later"}
    fetch(record, tmp_path / "d")
    assert pauses[:2] == [7.0, 7.0]
    assert 50 < pauses[2] <= 100
    assert pauses[3:] == [download.LONGEST_PAUSE_S, 0.0]  # PAUSE_S is 0 here


def test_many_cuts_are_no_failure_while_something_arrives(server, record, tmp_path):
    server.cut_at, server.cuts = len(server.content) // 12, 11
    assert fetch(record, tmp_path).read_bytes() == server.content
    assert len(server.log) == 12 > download.ATTEMPTS


@pytest.mark.parametrize(
    ("content", "words"), [(b"\n<!DOCTYPE html><h1>Log in</h1>", "a web page"), (b"", "nothing")]
)
def test_a_web_page_is_no_checkpoint(server, record, tmp_path, content, words):
    server.content = content
    with pytest.raises(DownloadError, match=f"answered with {words} instead of a checkpoint"):
        fetch(record, tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["SLOW.pyth.lock"]


def test_bytes_of_another_place_are_not_glued(server, record, tmp_path):
    server.cut_at, server.cuts, server.offset = 20_000, 1, 5
    with pytest.raises(DownloadError, match="bytes from 20000 on and sent those from 20005 on"):
        fetch(record, tmp_path)


def test_a_full_disk_is_no_reason_to_ask_again(server, record, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DownloadError, match=r"needs 0 MB and .* has 0 MB left"):
        fetch(record, tmp_path)
    monkeypatch.undo()
    full = replace(record, url=record.url.replace("SLOW.pyth", "full.pyth"))
    (tmp_path / "full.pyth.part").symlink_to("/dev/full")  # every write to it fails so
    with pytest.raises(DownloadError, match=r"full\.pyth cannot be written .*No space left"):
        fetch(full, tmp_path)
    assert len(server.log) == 2


def test_a_cache_that_can_only_be_read(server, record, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DownloadError, match="nothing can be written to"):
        fetch(record, tmp_path / "file" / "cache")
    assert server.log == []
    path = fetch(record, tmp_path / "cache")

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download.FileLock, "acquire", refuse)
    assert fetch(record, tmp_path / "cache") == path
    path.write_bytes(b"x" + path.read_bytes())
    with pytest.raises(DownloadError, match=r"has sha256 .* cannot be removed"):
        fetch(record, tmp_path / "cache")
    assert path.exists()


def test_a_bad_file_that_a_user_put_there_leaves_no_pin(server, record, tmp_path):
    path = cached_path(record, tmp_path)
    path.write_bytes(b"something else")
    digest = hashlib.sha256(server.content).hexdigest()
    wanted = replace(record, sha256=digest)
    with pytest.raises(DownloadError, match=f"{digest} was expected"):
        fetch(wanted, tmp_path)
    assert fetch(wanted, tmp_path).read_bytes() == server.content


def test_a_redirect_to_plain_http_is_refused(record, tmp_path, monkeypatch):
    answer = io.BytesIO(b"checkpoint")
    answer.url, answer.status, answer.headers = "http://mirror.example/SLOW.pyth", 200, {}
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *args, **kwargs: answer)
    with pytest.raises(
        DownloadError, match=r"leads to http://mirror\.example/SLOW\.pyth, which is"
    ):
        fetch(replace(record, url="https://official.example/SLOW.pyth"), tmp_path)


def test_no_server_at_all(server, record, tmp_path):
    gone = replace(record, url="http://127.0.0.1:9/SLOW.pyth")
    with pytest.raises(DownloadError, match="could not be downloaded: 5 attempts in a row"):
        fetch(gone, tmp_path)
    with pytest.raises(DownloadError, match="neither http nor https"):
        fetch(replace(record, url="file:///etc/passwd"), tmp_path)


def test_offline_says_where_to_put_the_file(server, record, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE is set. Download .* put it at"):
        fetch(record, tmp_path)
    assert server.log == []
    cached_path(record, tmp_path).write_bytes(server.content)
    assert fetch(record, tmp_path).read_bytes() == server.content


def test_two_threads_download_once(server, record, tmp_path):
    threads = [threading.Thread(target=fetch, args=(record, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.log == [None]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_download_once(server, record, tmp_path):
    server.cut_at, server.cuts = 20_000, 2
    code = (
        "import sys; from dataclasses import replace; from ct_video_hf.models import get_backbone;"
        "from ct_video_hf.models.download import fetch;"
        "record = get_backbone('slow_r50').weights['kinetics'];"
        "print(fetch(replace(record, url=sys.argv[1]), sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, server.url, str(tmp_path)]
    online = environment() | {"HF_HUB_OFFLINE": "0"}
    both = [
        subprocess.Popen(command, env=online, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    printed = {process.communicate(timeout=120)[0].strip() for process in both}
    assert printed == {str(tmp_path / "SLOW.pyth")}
    assert (tmp_path / "SLOW.pyth").read_bytes() == server.content
    assert server.log == [None, "bytes=20000-", "bytes=40000-"]


def test_default_cache_lies_in_the_hugging_face_home(record):
    path = cached_path(record)
    assert path.name == "SLOW.pyth"
    assert str(path).startswith(constants.HF_HOME)


def test_published_file_names_do_not_collide():
    files = {  # several backbones may start from one file
        record.url: cached_path(record).name
        for name in PUBLISHED
        for record in get_backbone(name).weights.values()
        if record.url is not None
    }
    assert all(one != other for one, other in itertools.combinations(files.values(), 2))


def test_the_checkpoints_here_have_live_branches():
    state, _ = published_state("slow_r50")
    finals = [value for key, value in state.items() if key.endswith("norm_c.weight")]
    assert finals
    assert all(torch.count_nonzero(value) for value in finals)
