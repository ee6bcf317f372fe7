"""Prepared sets that were damaged or mixed up: one error of ours, from whatever reads them."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from torch._utils import ExceptionWrapper

from ct_video_hf.cli import _describe, main
from ct_video_hf.data import load_ct_dataset
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.loading import summarize_set, verify_set
from ct_video_hf.data.manifest import read_manifest
from ct_video_hf.data.overview import describe_set
from ct_video_hf.data.prepare_options import PrepareOptions
from ct_video_hf.data.row_file import read_row
from ct_video_hf.data.sources import prepare
from tests.support.dicom_folders import write_folder_set, write_study
from tests.support.tiny_runs import OPTIONS, words

OPTIONS_OF_SET = PrepareOptions(size=32, salt="a salt for tests")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The scans, their set, and a set of other scans with the same names and sizes."""
    root = tmp_path_factory.mktemp("sets")
    scans = write_folder_set(root / "scans", studies=4)
    others = shutil.copytree(scans, root / "others")
    for number in range(4):
        shutil.rmtree(others / f"s{number}")
        write_study(others / f"s{number}", 90 + number, slices=24 + number)
    for name in ("scans", "others"):
        out = root / f"{name}_set"
        prepare("folder", root / name, out, options=OPTIONS_OF_SET, progress=False)
    return root


@pytest.fixture
def folder(sets, tmp_path):
    return shutil.copytree(sets / "scans_set", tmp_path / "set")


def load(folder):
    return load_ct_dataset(folder)


def read(folder):
    """Every volume, as training does."""
    for split in load_ct_dataset(folder).values():
        for row in split.with_format("arrow"):
            assert row["volume"].chunk(0).buffers()[2].size


def stream(folder):
    for row in load_ct_dataset(folder, "train", streaming=True):
        assert row["volume"]


READERS = {
    "load": load,
    "read": read,
    "stream": stream,
    "inspect": summarize_set,
    "report": describe_set,
    "verify": verify_set,
}


def study_file(folder, number=1):
    return folder / "studies" / f"{read_manifest(folder)['studies'][number]['key']}.arrow"


def edited(change):
    """A damage: the manifest after ``change``."""

    def damage(folder, others):
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(change(manifest) or manifest))

    return damage


def field(name, value):
    return edited(lambda manifest: manifest["studies"][1].update({name: value}))


def overwritten(name, content):
    return lambda folder, others: (folder / name).write_bytes(content)


def garbled(find):
    """A damage: other bytes of the same number."""

    def damage(folder, others):
        file = find(folder)
        file.write_bytes(bytes(np.random.default_rng(1).bytes(file.stat().st_size)))

    return damage


def truncated(find):
    def damage(folder, others):
        file = find(folder)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def taken_from_others(name):
    return lambda folder, others: shutil.copy(others / name, folder / name)


def another_study(folder, others):
    """The file of a study of another set, with the size of the one that belongs here."""
    file = study_file(folder)
    row = read_row(study_file(folder)).to_pylist()[0] | {"study_id": "s7"}
    write(file, pa.RecordBatch.from_pylist([row], read_row(file).schema))


def another_table(folder, others):
    file = study_file(folder)
    size = file.stat().st_size
    write(file, pa.record_batch({"study_id": ["s1"], "x": [b"-" * (size - 1000)]}))
    file.write_bytes(file.read_bytes().ljust(size, b"\0"))


def write(file, batch):
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as out:
        out.write_batch(batch)


def index(folder):
    return folder / "index.arrow"


def manifest_file(folder):
    return folder / "manifest.json"


EVERY = tuple(READERS)
#: The readers that look into the files of studies.
OPENING = ("read", "stream", "report", "verify")

#: Damage, the readers that have to notice it, and what they say.
CASES = {
    "manifest truncated": (truncated(manifest_file), EVERY, "manifest.json of set is damaged: not"),
    "manifest is binary": (garbled(manifest_file), EVERY, "manifest.json of set is damaged: not"),
    "manifest nested": (
        overwritten("manifest.json", b"[" * 100_000), EVERY, "manifest.json of set is damaged: not",
    ),
    "manifest a list": (
        overwritten("manifest.json", b"[]"), EVERY, "set is not a prepared set .manifest.json of",
    ),
    "manifest of another format": (
        edited(lambda manifest: manifest.pop("format_version") and None), EVERY, "has format None",
    ),
    "no parameters": (
        edited(lambda manifest: manifest.pop("parameters") and None), EVERY,
        "damaged: parameters is missing; an object is expected",
    ),
    "provenance": (
        edited(lambda manifest: manifest.update(provenance={"name": 3})), EVERY,
        "damaged: provenance.name is 3; text is expected",
    ),
    "studies": (edited(lambda m: m.update(studies=[])), EVERY, "damaged: studies is .*list of st"),
    "a study is text": (
        edited(lambda m: m.update(studies=["s1"])), EVERY, "damaged: studies is .*list of studies",
    ),
    "key leads elsewhere": (
        field("key", "../../../etc/passwd"), EVERY, r"studies\[1\].key is '../.*hexadecimal",
    ),
    "split": (field("split", ["train"]), EVERY, r"studies\[1\].split is .* one of train, valid"),
    "shape": (field("shape", [24, 32, None]), EVERY, r"studies\[1\].shape is .* three whole numb"),
    "bytes": (field("bytes", "many"), EVERY, r"studies\[1\].bytes is 'many'; a count is expected"),
    "labels": (field("labels", None), EVERY, r"studies\[1\].labels is missing; a list of numbers"),
    "a study twice": (field("study_id", "s0"), EVERY, "study_id 's0' is there 2 times"),
    "other counts": (
        edited(lambda manifest: manifest["splits"].update(train=9)), EVERY,
        "it counts 9 studies of train and has 2",
    ),
    "finding": (edited(lambda m: m.update(finding=3)), EVERY, "finding or its weights are not"),
    "side tables": (
        edited(lambda manifest: manifest.update(side_tables={"../salt": "x"})), EVERY,
        "side_tables is .*; an object with names of tables",
    ),
    "manifest gone": (
        lambda folder, others: manifest_file(folder).unlink(), EVERY,
        "set is not complete: run the same `prepare` again",
    ),
    "manifest of another set": (taken_from_others("manifest.json"), ("load", "verify"), "not what"),
    "index truncated": (truncated(index), ("load", "inspect"), "index.arrow of set has .* bytes"),
    "index gone": (lambda folder, others: index(folder).unlink(), ("load",), "index.*is missing"),
    "index garbled": (garbled(index), ("load", "inspect", "verify"), "index.*is not what was pr"),
    "index of another set": (taken_from_others("index.arrow"), ("load", "verify"), "is not what"),
    "study truncated": (truncated(study_file), EVERY, "studies/.*.arrow of set has .* expected"),
    "study gone": (
        lambda folder, others: study_file(folder).unlink(), EVERY, "studies/.*.arrow of set is mis",
    ),
    "study garbled": (garbled(study_file), OPENING, "studies/.*.arrow of set is (damaged|not wh)"),
    "another study": (another_study, ("read", "report", "verify"), "(holds the study|is not what)"),
    "another table": (another_table, OPENING, "is (not the row of a study|not what was prepared)"),
    "rejects": (overwritten("rejects.csv", b"a\nb\n"), ("report",), "rejects.csv of set is dam"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_damaged_sets_are_refused_in_one_line(sets, folder, case, capsys):
    damage, noticed, said = CASES[case]
    damage(folder, sets / "others_set")
    for name in noticed:
        with pytest.raises(CTDataError, match=said) as error:
            READERS[name](folder)
        assert "\n" not in str(error.value)
    for name in READERS.keys() - set(noticed):
        try:
            READERS[name](folder)
        except CTDataError as error:
            assert "\n" not in str(error), name  # noqa: PT017 - it may also find nothing
    if "inspect" in noticed:
        assert main(["inspect", str(folder)]) == 1
        assert "inspect: error: " in (shown := capsys.readouterr().err)
        assert "--traceback" not in shown


def test_preparing_goes_on_from_a_damaged_journal_but_not_without_parameters(sets, folder):
    def again():
        options = {"options": OPTIONS_OF_SET, "progress": False}
        return prepare("folder", sets / "scans", folder, **options)

    records = read_manifest(folder)["studies"]
    manifest_file(folder).unlink()
    lines = [json.dumps(record).encode() for record in records]
    lines[1] = b"\0" * len(lines[1])  # as a machine that lost power may leave it
    lines[2] = b'{"study_id": "s2"}'
    (folder / "journal.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert again().kept == 2
    assert read_manifest(folder)["studies"] == records
    (folder / "parameters.json").write_bytes(b'{"size')
    with pytest.raises(CTDataError, match=r"parameters\.json of set is damaged: .* a new folder"):
        again()


def test_training_on_a_damaged_study(folder, tmp_path, capsys):
    file = study_file(folder)
    garbled(study_file)(folder, None)
    options = OPTIONS | {"data": folder, "output": tmp_path / "run", "validation_split": "none"}
    options |= {"test_split": "none", "metric": "loss"}
    options.pop("disable_tqdm")
    options.pop("use_cpu")
    assert main(["train", *words(**options), "--quiet"]) == 1
    shown = capsys.readouterr().err
    assert f"train: error: studies/{file.name} of set is damaged or gone: " in shown
    assert "Traceback" not in shown


def test_of_an_error_in_a_worker_of_a_loader_its_own_words_are_told():
    try:
        raise CTDataError("studies/1.arrow of set is damaged")
    except CTDataError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(CTDataError, match="Original Traceback") as error:
        wrapped.reraise()
    assert _describe(error.value) == "studies/1.arrow of set is damaged"
