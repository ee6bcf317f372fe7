import json
import sys

import pytest

from ct_video_hf.cli import main
from tests.support.clip_sets import write_clip_set
from tests.support.tiny_runs import OPTIONS, complete, words


@pytest.fixture(scope="module")
def clip_set(tmp_path_factory):
    return write_clip_set(tmp_path_factory.mktemp("sets") / "noise")


@pytest.fixture(scope="module")
def trained(clip_set, tmp_path_factory):
    """Trained from a file, one value replaced on the line."""
    folder = tmp_path_factory.mktemp("runs")
    file = folder / "run.yaml"
    lines = [f"{name}: {value}" for name, value in OPTIONS.items()]
    file.write_text("\n".join([*lines, f"data: {clip_set}", "lr: 1e-2"]))
    out = folder / "model"
    line = ["--config", str(file), "--output", str(out), "--lr", "2e-3", "--windows", "-600,1500"]
    assert main(["train", *line, "-q"]) == 0
    return out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from ct_video_hf.cli import main\n"
        "try: main(['train', '--help'])\n"
        "except SystemExit as leave: assert leave.code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    shown = complete([sys.executable, "-c", code]).stdout
    assert "--batch-size" in shown
    assert "Not for clinical use" in shown


def test_the_line_wins_over_the_file(trained):
    record = json.loads((trained / "training_config.json").read_text())
    assert record["arguments"]["lr"] == 2e-3
    assert record["arguments"]["windows"] == [[-600.0, 1500.0]]
    assert "/" not in record["command"]
    assert (trained / "README.md").read_text().startswith("---")


def test_json_is_all_of_stdout(clip_set, tmp_path, capsys):
    options = words(**(OPTIONS | {"epochs": 1, "disable_tqdm": "false"}))
    line = ["--data", str(clip_set), "--output", str(tmp_path / "out"), *options, "--json"]
    assert main(["train", *line]) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert answer["metrics"]["study/auroc"]["n"] == 7
    assert "validation study/auroc" in captured.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--epoch", "3"], "unknown option epoch; did you mean epochs?"),
        (["--lr", "fast"], "option lr"),
        (["--preset", "paper"], "invalid choice"),
        (["stray"], "unexpected argument 'stray'"),
        (["--config", "nowhere.yaml"], "no configuration file"),
        (["--max_grad_norm", "1", "--max-grad-norm", "2"], "given twice"),
    ],
)
def test_wrong_use_exits_with_2(line, message, capsys, tmp_path):
    needed = ["--data", "set", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as leave:
        main(["train", *needed, *line])
    assert leave.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unfit_data_exits_with_1(tmp_path, capsys):
    line = ["--data", str(tmp_path), "--output", str(tmp_path / "out"), "--backbone", "slow_tiny"]
    assert main(["train", *line]) == 1
    assert "is not a prepared set" in capsys.readouterr().err


def test_help_all_lists_transformers_fields(capsys):
    with pytest.raises(SystemExit) as leave:
        main(["train", "--help-all"])
    assert leave.value.code == 0
    assert "--max_grad_norm" in capsys.readouterr().out
