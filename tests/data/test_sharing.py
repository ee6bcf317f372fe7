import pytest

from ct_video_hf.data.card import render_data_card
from ct_video_hf.data.errors import CTDataError
from ct_video_hf.data.labels import LabelsTable, StudyEntry
from ct_video_hf.data.manifest import read_manifest
from ct_video_hf.data.prepare_options import PrepareOptions, Provenance
from ct_video_hf.data.prepared import prepare_table
from ct_video_hf.data.sharing import reasons_against_sharing, refuse_public
from ct_video_hf.data.sources import prepare
from tests.support.dicom_folders import write_study


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    write_study(folder / "a", 1, slices=8)
    return folder


def manifest_of(scans, out, provenance, **options):
    table = LabelsTable((StudyEntry("a", scans / "a", split="train"),))
    chosen = PrepareOptions(size=32, **options)
    prepare_table(table, out, chosen, provenance=provenance, progress=False)
    return read_manifest(out)


def test_a_source_that_must_not_be_passed_on(scans, tmp_path):
    terms = Provenance("restricted", licence="no redistribution", citation="Doe 2021")
    manifest = manifest_of(scans, tmp_path / "set", terms)
    with pytest.raises(CTDataError, match=r"not pushed to a public repo: images of restricted"):
        refuse_public(manifest, private=False)
    refuse_public(manifest, private=True)
    card = (tmp_path / "set" / "README.md").read_text()
    assert "Licence of the source: no redistribution\n\nCite: Doe 2021\n\n**Not to be made" in card


def test_a_free_source(scans, tmp_path):
    terms = Provenance("free", licence="CC BY 4.0", redistributable=True)
    manifest = manifest_of(scans, tmp_path / "set", terms)
    refuse_public(manifest, private=False)
    card = render_data_card(manifest, [])
    assert "Not to be made public" not in card
    assert "CC BY 4.0\n\n## Contents" in card


def test_uids_in_the_set(scans, tmp_path):
    terms = Provenance("free", licence="CC BY 4.0", redistributable=True)
    manifest = manifest_of(scans, tmp_path / "set", terms, slice_ids=True)
    with pytest.raises(CTDataError, match="SOP Instance UIDs"):
        refuse_public(manifest, private=False)


def test_scans_whose_licence_nobody_stated(scans, tmp_path):
    options = PrepareOptions(size=32, fractions=(1.0, 0.0, 0.0))
    for licence, reasons in ((None, 1), ("CC0", 0)):
        out = tmp_path / str(licence)
        prepare("folder", scans, out, options=options, licence=licence, progress=False)
        assert len(reasons_against_sharing(read_manifest(out))) == reasons


def test_a_manifest_that_does_not_say_is_not_taken_for_free():
    old = {"provenance": {"name": "old", "licence": "?"}, "parameters": {}}
    with pytest.raises(CTDataError, match="images of old must not be redistributed"):
        refuse_public(old, private=False)


def test_findings_are_counted_on_the_card_and_may_reject(scans, tmp_path):
    options = PrepareOptions(size=32, fractions=(1.0, 0.0, 0.0))
    write_study(scans / "short", 2, slices=6)
    summary = prepare("folder", scans, tmp_path / "set", options=options, progress=False)
    assert (summary.findings, summary.studies) == ({"too_few_slices": 1}, 2)
    assert "| `too_few_slices` | 1 |" in (tmp_path / "set" / "README.md").read_text()
    options = PrepareOptions(size=32, fractions=(1.0, 0.0, 0.0), reject=("too_few_slices",))
    with pytest.raises(CTDataError, match="prepared with other parameters"):
        prepare("folder", scans, tmp_path / "set", options=options, progress=False)
    summary = prepare("folder", scans, tmp_path / "other", options=options, progress=False)
    assert (summary.findings, summary.studies, summary.rejected) == ({}, 1, 1)
    assert "too_few_slices: only 6 slices" in (tmp_path / "other" / "rejects.csv").read_text()
    with pytest.raises(CTDataError, match="there is no finding few_slices; known are"):
        PrepareOptions(reject=("few_slices",))
