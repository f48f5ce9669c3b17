"""Tables from records: what a cell has, means over whole sets of images only, and pairs of the same runs."""

import dataclasses
import math
import re

import pytest
from sample_records import record

from ntkbook import paper
from ntkbook.configuration import Configuration
from ntkbook.experiments import TABLES, nystrom
from ntkbook.images import SET9
from ntkbook.photographs import available, load
from ntkbook.records import Record
from ntkbook.tables import NAMES, PIXELS, cell, expected, images_of, paired, planned, summary
from ntkbook.training_runs import CELLS, Cell, trained
from ntkbook.training_studies import small

AUTOENCODER = Cell("autoencoder", "adam", "noise")
IMAGES = tuple(SET9)


def made(configuration: Configuration, psnr: float = 25.0, iterations: int = 100, seconds: float = 10.0) -> Record:
    """A record of that configuration with these numbers; its best iteration is half of them."""
    sample = record(best_psnr=psnr, best_iteration=iterations // 2, curve={}, outcome={"iterations": iterations})
    return dataclasses.replace(sample, configuration=configuration, seconds=seconds)


def cells(values: dict[tuple[str, int], float]) -> dict[tuple[str, int], Record]:
    """A cell's records with these PSNRs, by image and seed."""
    return {where: made(trained(*where, AUTOENCODER), value) for where, value in values.items()}


# The plan's cells


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_of_table_1_has_every_image_with_three_seeds(name):
    found = planned(name)
    assert set(found) == {(image, seed) for image in SET9 for seed in range(3)}
    assert set(found.values()) <= set(TABLES["table1"])
    for (image, seed), configuration in found.items():
        assert (configuration.image, configuration.noise_seed, configuration.sigma) == (image, seed, 25)
        assert (configuration.architecture, configuration.input) == (name.split("/")[0], name.split("/")[2])


def test_the_cells_are_those_of_table_1_and_share_no_run():
    assert {"/".join(key) for key in paper.TABLE1} == set(NAMES)
    keys = [configuration.key for name in NAMES for configuration in planned(name).values()]
    assert len(set(keys)) == len(keys) == 14 * 27
    rest = [c for c in TABLES["table1"] if c.key not in keys]
    assert all(c.settings["columns"] == 0.02 for c in rest)


def test_the_cells_of_table_4():
    names = {"/".join(key[1:]) for key in paper.TABLE4}
    for sigma in (5, 100):
        for name in names:
            assert set(planned(name, sigma)) == {(image, seed) for image in SET9 for seed in range(3)}
            assert {c.sigma for c in planned(name, sigma).values()} == {sigma}


@pytest.mark.parametrize("name", [c.name for c in CELLS if c.optimiser == "adam"])
def test_the_cells_of_adam_have_a_variant(name):
    architecture, rest = name.split("/", 1)
    found = planned(f"{architecture}-third/{rest}")
    assert set(found) == {(image, seed) for image in SET9 for seed in range(3)}
    assert set(found.values()) <= set(TABLES["table1_third"])


@pytest.mark.parametrize(
    ("name", "sigma"),
    [
        ("vanilla/adam", 25),
        ("unet-zeros/adam/image", 25),
        ("vanilla/nystrom/noise", 5),
        ("unet/adam/image", 100),
        ("autoencoder/adam/image", 50),
    ],
)
def test_cells_that_the_plan_has_not_are_refused(name, sigma):
    message = f"The plan has no cell {name!r} at sigma {sigma}; the cells are {', '.join(NAMES)}."
    for function in (planned, lambda *where: cell([], *where)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            function(name, sigma)


def test_a_cell_has_its_own_records_and_no_other():
    own = [made(planned(AUTOENCODER.name)[where]) for where in (("lena", 2), ("house", 0))]
    others = [
        trained("house", 0, AUTOENCODER, 5),
        trained("house", 0, AUTOENCODER, learning_rate=0.5),
        trained("house", 0, AUTOENCODER, products="float32"),
        trained("house", 7, AUTOENCODER),
        trained("house", 0, AUTOENCODER._replace(architecture="autoencoder-zeros")),
        trained("house", 0, AUTOENCODER._replace(optimiser="gd")),
        small("house", 0, AUTOENCODER),
        nystrom("house", 0),
        nystrom("house", 0, columns=0.02),
    ]
    records = [*own, *map(made, others)]
    assert cell(records, AUTOENCODER.name) == {("lena", 2): own[0], ("house", 0): own[1]}
    assert list(cell(records, AUTOENCODER.name, 5)) == [("house", 0)]
    assert cell(iter(records), "unet/gd/image") == {}


def test_images_come_in_the_order_of_the_set():
    found = cells({("peppers", 1): 20, ("baboon", 0): 20, ("house", 0): 20, ("house", 2): 20})
    assert images_of(found) == ("baboon", "house", "peppers")
    assert images_of({}) == ()


def test_pixels_are_those_of_the_photographs():
    assert list(PIXELS) == list(SET9)
    if not available():
        pytest.skip("the photographs are not on this machine")
    for name in available():
        assert PIXELS[name] == load(name)[0].numel()


# Means


def values(image: str, seed: int) -> float:
    """Something that depends on both, and not by a sum."""
    return 20 + len(image) + 0.1 * seed * len(image) ** 2


def test_the_mean_is_over_images_and_its_spread_over_seeds():
    found = cells({(image, seed): values(image, seed) for image in SET9 for seed in range(3)})
    means = [sum(values(image, seed) for image in SET9) / 9 for seed in range(3)]
    mean = sum(means) / 3
    spread = math.sqrt(sum((value - mean) ** 2 for value in means) / 2)
    assert summary(found) == (pytest.approx(mean), pytest.approx(spread), 3)
    subset = ("house", "lena")
    means = [(values("house", seed) + values("lena", seed)) / 2 for seed in range(3)]
    assert summary(found, iter(subset)) == (pytest.approx(sum(means) / 3), pytest.approx((means[2] - means[0]) / 2), 3)


def test_seeds_without_all_images_do_not_count():
    whole = cells({(image, 1): values(image, 1) for image in SET9})
    parts = cells({(image, seed): 99.0 for image in IMAGES[1:] for seed in (0, 2)})
    mean, spread, count = summary(parts | whole)
    assert mean == pytest.approx(sum(values(image, 1) for image in SET9) / 9)
    assert math.isnan(spread) and count == 1
    assert summary(parts) is None
    assert summary(parts, IMAGES[1:]) == (99, 0, 2)
    assert summary(parts | whole, IMAGES[1:]).count == 3
    assert summary({}) is None
    assert summary(whole, ()) is None


def test_iterations_are_averaged_likewise():
    found = {where: made(trained(*where, AUTOENCODER), iterations=count) for where, count in
             {("house", 0): 200, ("lena", 0): 600, ("house", 1): 400, ("lena", 1): 400}.items()}  # fmt: skip
    assert summary(found, ("house", "lena"), iterations=True) == (200, 0, 2)  # of the best ones, not of all
    assert summary(found, ("house",), iterations=True).mean == 150


def test_pairs_are_of_the_same_image_and_seed():
    """Seeds are averaged within an image, so that one with many does not weigh more."""
    first = cells({("house", 0): 30.0, ("house", 1): 32.0, ("lena", 0): 28.0, ("f16", 1): 50.0, ("baboon", 0): 10.0})
    second = cells({("house", 0): 29.0, ("house", 1): 29.0, ("lena", 0): 28.5, ("f16", 0): 20.0, ("baboon", 0): 12.0})
    differences = [(1.0 + 3.0) / 2, -0.5, -2.0]  # house, lena, baboon
    mean = sum(differences) / 3
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2 / 3)
    assert paired(first, second) == (pytest.approx(mean), pytest.approx(error), 3)
    assert paired(second, first) == (pytest.approx(-mean), pytest.approx(error), 3)


def test_pairs_of_one_image_have_no_error_and_none_no_difference():
    first, second = cells({("house", 0): 30.0, ("house", 2): 31.0}), cells({("house", 0): 29.0, ("house", 1): 1.0})
    mean, error, count = paired(first, second)
    assert (mean, count) == (1, 1)
    assert math.isnan(error)
    assert paired(first, cells({("lena", 0): 29.0})) is None
    assert paired({}, {}) is None


# How long a missing run would take


def test_expected_time_is_that_of_the_fastest_record_per_pixel_and_the_median_of_the_cell():
    unet = Cell("unet", "adam", "image")
    records = [
        made(trained("house", 0, unet), iterations=100, seconds=100.0),  # one second each
        made(trained("lena", 0, unet), iterations=300, seconds=600.0),  # two seconds for four times the pixels
        made(trained("f16", 0, unet), iterations=1000, seconds=9000.0),
        made(trained("house", 0, unet._replace(optimiser="gd")), iterations=7, seconds=70.0),
        made(trained("house", 0, AUTOENCODER), iterations=7, seconds=0.7),  # another network
        made(trained("house", 0, unet, learning_rate=0.5), iterations=7, seconds=70.0),  # another step
        made(trained("house", 0, unet, 5), iterations=7, seconds=70.0),  # another noise
        made(small("house", 0, unet), iterations=7, seconds=0.7),  # a crop
        made(nystrom("house", 0), seconds=0.1),
    ]
    assert expected(trained("house", 1, unet), records) == (pytest.approx(300 * 0.5), 300, "ours")
    assert expected(trained("kodim01", 1, unet), iter(records)) == (pytest.approx(300 * 0.5 * 6), 300, "ours")


@pytest.mark.parametrize(
    ("name", "iterations"), [("unet/gd/noise", 50054), ("vanilla/gd/noise", 1_000_000), ("vanilla/adam/image", 64)]
)
def test_without_a_record_of_the_cell_the_paper_s_iterations_are_expected(name, iterations):
    wanted = Cell(*name.split("/"))
    other = next(c for c in CELLS if c.architecture == wanted.architecture and c != wanted)
    records = [made(trained("house", 0, other), iterations=10, seconds=20.0)]
    found = expected(trained("house", 0, wanted), records)
    assert found == (pytest.approx(2.0 * iterations), iterations, "the paper's")
    assert expected(trained("lena", 0, wanted), records).seconds == pytest.approx(8.0 * iterations)


def test_a_variant_takes_as_long_as_its_architecture():
    records = [made(trained("house", 0, Cell("unet", "gd", "image")), iterations=10, seconds=20.0)]
    wanted = trained("house", 0, Cell("unet-third", "adam", "noise"))
    assert expected(wanted, records) == (pytest.approx(2.0 * 7692), 7692, "the paper's")
    records.append(made(trained("lena", 0, Cell("unet-third", "adam", "noise")), iterations=500, seconds=1000.0))
    assert expected(wanted, records) == (pytest.approx(0.5 * 500), 500, "ours")


def test_nothing_is_expected_without_a_record_of_the_architecture():
    wanted = trained("house", 0, Cell("unet", "adam", "image"))
    assert expected(wanted, []) is None
    assert expected(wanted, [made(trained("house", 0, AUTOENCODER)), made(nystrom("house", 0))]) is None
