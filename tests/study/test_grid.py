"""The cells of a design: what there is, what waits for what, nothing twice."""

from __future__ import annotations

from ct_video_hf.study import grid_cells, read_study
from ct_video_hf.study.grid import levels, needs

from .designs import design, write


def cells_of(tmp_path, **changes):
    config = read_study(write(tmp_path, design(**changes)))
    return config, grid_cells(config)


def test_every_place_of_the_grid_has_a_cell_and_a_beginning(tmp_path):
    config, cells = cells_of(tmp_path)
    grid = [cell for cell in cells if cell.role == "grid"]
    assert len(grid) == 2 * 2 * 2 + 2 * 2  # arms x fractions x seeds, and the 2d network's
    sources = [cell for cell in cells if cell.role == "source"]
    assert [cell.name for cell in sources] == ["other/slow_tiny/random/fraction1_seed0_lr0.0003"]
    assert len({cell.name for cell in cells}) == len(cells)
    place = {cell.name: number for number, cell in enumerate(cells)}
    for cell in cells:
        assert all(place[earlier.name] < place[cell.name] for earlier in needs(config, cell))
    assert [len(wave) for wave in levels(config, cells)] == [9, 4]


def test_a_search_tries_every_rate_once_for_all_fractions_and_seeds(tmp_path):
    config, cells = cells_of(
        tmp_path, learning_rates=[0.1, 0.01, 0.001], search={"fraction": 0.5, "seed": 1}
    )
    tried = [cell for cell in cells if cell.role == "search"]
    # rates x (random, in_domain and the 2d network on ct, and the source)
    assert len(tried) == 3 * 4
    assert {cell.learning_rate for cell in tried} == {0.1, 0.01, 0.001}
    assert {(cell.fraction, cell.seed) for cell in tried} == {(0.5, 1)}
    grid = [cell for cell in cells if cell.role == "grid"]
    assert {cell.learning_rate for cell in grid} == {"best"}
    # the in-domain search begins with the source, which itself waits for its search
    assert [len(wave) for wave in levels(config, cells)] == [9, 9, 3, 4]


def test_two_sets_that_begin_with_each_other_use_cells_of_the_grid(tmp_path):
    config, cells = cells_of(
        tmp_path,
        data={"a": {"set": "a"}, "b": {"set": "b"}},
        pretraining={
            "random": {},
            "in_domain": {"from": {"a": "b", "b": "a"}, "start": "random"},
        },
        models=["slow_tiny"],
    )
    assert {cell.role for cell in cells} == {"grid"}, "each source is in the grid already"
    assert len(cells) == 2 * 2 * 2 * 2
    late = [cell for cell in cells if needs(config, cell)]
    assert {cell.pretraining for cell in late} == {"in_domain"}
