"""The chapters' checks hold, and each fails when its equation's function is one per cent off.

A cell tagged `check` needs nothing but the cells tagged `setup`. So the checks can be run here without the rest of
the chapter, and again with the package altered.
"""

import random
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from chapter_cells import mutate, named_in, notices, read_cells
from matplotlib import pyplot

from ntkbook import filters, kernels, nystrom, paper
from ntkbook.checks import CheckFailed
from ntkbook.kernels import PatchKernel

BOOK = Path(__file__).resolve().parents[1] / "book"
CHAPTERS = {path.stem: read_cells(path) for path in sorted(BOOK.glob("*.md"))}
CHECKED = [chapter for chapter, cells in CHAPTERS.items() if cells.checks]


@dataclass(frozen=True)
class Mutation:
    """One way to be one per cent off: in the result of a function of the package, or in one part of it."""

    equation: str
    function: str
    part: int | None = None
    chapter: str | None = None  # by default the one that derives the equation
    shift: bool = False  # for what is zero on average

    @property
    def place(self) -> str:
        return self.chapter or paper.equation(int(self.equation)).chapter

    def __str__(self) -> str:
        return f"{self.equation}: {self.function}" + ("" if self.part is None else f"[{self.part}]")


MUTATIONS = [
    Mutation("4", "kernels.nlm_affinity"),
    Mutation("5", "filters.twicing"),
    Mutation("6", "filters.SpectralFilter.apply"),
    Mutation("6", "filters.SpectralFilter.response"),
    Mutation("7", "filters.SpectralFilter.mean_squared_error"),
    Mutation("7", "filters.SpectralFilter.squared_bias"),
    Mutation("7", "filters.SpectralFilter.variance"),
    Mutation("16", "kernels.relu_affinity"),
    Mutation("73", "nystrom.nystrom_blocks", part=0),
    Mutation("73", "nystrom.nystrom_blocks", part=1),
    Mutation("74", "nystrom.literal_eigenpairs", part=1),
    Mutation("75", "nystrom.literal_eigenpairs", part=0),
    Mutation("1", "matrix_form.convolution_matrix"),
    Mutation("2", "matrix_form.preactivations"),
    Mutation("3", "matrix_form.preactivations"),
    Mutation("8", "dynamics.weight_change"),
    Mutation("9", "filters.twicing"),
    Mutation("10", "tangent.EmpiricalKernel.dense"),
    Mutation("11", "propagation.layer_tangent"),
    Mutation("12", "propagation.layer_tangent"),
    Mutation("13", "propagation.convolution_map"),
    Mutation("14", "propagation.nonlinearity_map"),
    Mutation("15", "propagation.nonlinearity_map"),
    Mutation("17", "noise_input.noise_filter"),
    Mutation("18", "adam.weight_step"),
    Mutation("19", "tangent.EmpiricalKernel.product"),
    Mutation("20", "adam.output_step"),
    Mutation("21", "adam_widths.reach"),
    Mutation("21", "adam_widths.largest_step"),
    Mutation("21", "widths.weight_changes"),
    Mutation("22", "tangent.EmpiricalKernel.product"),
    Mutation("23", "tangent.EmpiricalKernel.product"),
    Mutation("24", "propagation.error_covariance"),
    Mutation("25", "propagation.error_covariance"),
    Mutation("26", "networks.Convolution.forward", shift=True),
    Mutation("27", "networks.Convolution.forward", shift=True),
    Mutation("28", "propagation.preactivation_covariance"),
    Mutation("29", "propagation.preactivation_covariance"),
    Mutation("30", "propagation.preactivation_covariance"),
    Mutation("32", "networks.Convolution.forward", shift=True),
    Mutation("33", "networks.Convolution.forward", shift=True),
    Mutation("34", "propagation.preactivation_covariance"),
    Mutation("35", "propagation.preactivation_covariance"),
    Mutation("36", "propagation.layer_covariance"),
    Mutation("38", "propagation.relu_map"),
    Mutation("39", "noise_input.off_diagonals", part=0),
    Mutation("40", "propagation.layer_covariance"),
    Mutation("41", "images.add_noise"),
    Mutation("42", "gaussian_process.prior_draws"),
    Mutation("43", "gaussian_process.posterior", part=0),
    Mutation("43", "gaussian_process.posterior", part=1),
    Mutation("44", "matrix_form.weight_gradient"),
    Mutation("45", "matrix_form.error_gradients"),
    Mutation("46", "matrix_form.error_gradients"),
    Mutation("47", "matrix_form.error_gradients"),
    Mutation("48", "propagation.error_covariance"),
    Mutation("50", "matrix_form.error_gradients"),
    Mutation("52", "propagation.relu_derivative_map"),
    Mutation("53", "tangent.EmpiricalKernel.pull"),
    Mutation("54", "tangent.EmpiricalKernel.push"),
    Mutation("55", "tangent.EmpiricalKernel.push"),
    Mutation("56", "tangent.EmpiricalKernel.product"),
    Mutation("57", "tangent.EmpiricalKernel.product"),
    Mutation("58", "tangent.jacobian"),
    Mutation("59", "propagation.layer_tangent"),
    Mutation("60", "tangent.jacobian"),
    Mutation("61", "propagation.convolution_map"),
    Mutation("62", "propagation.layer_tangent"),
    Mutation("63", "dynamics.descent_step"),
    Mutation("64", "dynamics.descent_sum"),
    Mutation("65", "dynamics.descent"),
    Mutation("66", "dynamics.descent_distribution", part=0),
    Mutation("66", "dynamics.descent_distribution", part=1),
    Mutation("67", "propagation.preactivation_covariance"),
    Mutation("68", "propagation.preactivation_covariance"),
    Mutation("69", "kernels.relu_affinity"),
    Mutation("70", "filters.twicing"),
    Mutation("71", "covariances.resampling_matrix"),
    Mutation("72", "covariances.resampling_matrix"),
    Mutation("footnote 2", "filters.row_normalised", chapter="twicing"),
    Mutation("footnote 2", "filters.sinkhorn_normalised", chapter="twicing"),
    Mutation("degrees of freedom", "filters.SpectralFilter.degrees_of_freedom", chapter="twicing"),
    Mutation("the noise model", "images.add_noise", chapter="denoising"),
    Mutation("PSNR", "images.psnr", chapter="denoising"),
    Mutation("the constant image", "images.constant_image", chapter="denoising"),
    Mutation("non-local means", "baselines.nlm_fast", chapter="denoising"),
    Mutation("The features of any landmarks", "nystrom.inverse_root", chapter="landmarks"),
    Mutation("One Lloyd step", "landmarks.cluster_centres", chapter="landmarks"),
    Mutation("The blend of windows", "windows.Blend.result", chapter="landmarks"),
    Mutation("SURE of a window", "stopping.stein_estimates", part=0, chapter="landmarks"),
    Mutation("The divergence of a window", "stopping.stein_estimates", part=1, chapter="landmarks"),
    Mutation("The network as built", "networks.Convolution.forward", chapter="two-readings"),
    Mutation("The network as built", "networks.Resample.forward", chapter="two-readings"),
    Mutation("The network as built", "networks.SkipConnection.forward", chapter="two-readings"),
    Mutation("The convolution map", "covariances.window_sums", chapter="two-readings"),
    Mutation("The maps of a relu", "covariances.relu_moments", part=0, chapter="two-readings"),
    Mutation("The maps of a relu", "covariances.relu_moments", part=1, chapter="two-readings"),
    Mutation("Resampling from both sides", "covariances.resampling_matrix", chapter="two-readings"),
    Mutation("The skip connection", "covariances.mean_feature", chapter="two-readings"),
    Mutation("The whole network", "covariances.second_moment", chapter="two-readings"),
    Mutation("The whole network", "gram_matrices.ImageSource.sums", part=0, chapter="two-readings"),
    Mutation("The whole network", "gram_matrices.StateSource.sums", part=0, chapter="two-readings"),
    Mutation("The whole network", "gram_matrices.StateSource.sums", part=1, chapter="two-readings"),
    Mutation("The standard parametrisation", "covariances.window_sums", chapter="two-readings"),
    Mutation("The kernel by columns", "aligned_columns.AlignedColumns.entries", part=0, chapter="two-readings"),
    Mutation("The kernel by columns", "aligned_columns.AlignedColumns.entries", part=1, chapter="two-readings"),
    Mutation("The whole network", "kernels.infinite_width", part=0, chapter="two-readings"),
    Mutation("The whole network", "kernels.infinite_width", part=1, chapter="two-readings"),
    Mutation("The kernel by columns", "kernels.infinite_width_columns", part=1, chapter="two-readings"),
    Mutation("The product with the kernel", "tangent.EmpiricalKernel.product", chapter="deep-kernels"),
    Mutation("Power iteration", "tangent.power_iteration", part=0, chapter="deep-kernels"),
    Mutation("Gradient descent on a linear network", "tangent.EmpiricalKernel.product", chapter="deep-kernels"),
    Mutation("Gradient descent on a linear network", "filters.twicing", chapter="deep-kernels"),
    Mutation("The number of weights", "networks.weight_count", chapter="training"),
    Mutation("Gradient descent", "tangent.EmpiricalKernel.leading", part=0, chapter="training"),
    Mutation("The largest eigenvalue", "tangent.power_iteration", part=0, chapter="training"),
    Mutation("The largest eigenvalue", "tangent.EmpiricalKernel.largest_eigenvalue", chapter="training"),
    Mutation("Adam", "forward.FixedInput.__call__", chapter="training"),
    Mutation("The first output", "forward.FixedInput.__call__", chapter="training"),
    Mutation("The fast pass", "forward.FixedInput.__call__", chapter="training"),
    Mutation("The fast pass", "networks.Convolution.forward", chapter="training"),
    Mutation("The first layer", "images.extract_patches", chapter="training"),
    Mutation("The mean over seeds", "tables.summary", part=0, chapter="table-one"),
    Mutation("The spread over seeds", "tables.summary", part=1, chapter="table-one"),
    Mutation("The paired difference", "tables.paired", part=0, chapter="table-one"),
    Mutation("Its standard error", "tables.paired", part=1, chapter="table-one"),
    Mutation("The first output kept", "lanczos.KrylovFilter.apply", chapter="table-one"),
    Mutation("The patience", "training.Stopping.last", chapter="table-one"),
    Mutation("The centre and the rest", "images.central", chapter="restored-pictures"),
    Mutation("Its PSNR", "images.psnr", chapter="restored-pictures"),
    Mutation("The spectrum of white noise", "images.add_noise", chapter="restored-pictures"),
    Mutation("Lanczos on the tangent kernel", "lanczos.KrylovFilter.apply", chapter="prediction"),
    Mutation("Adam by its metric", "adam.metric", chapter="adam-kernel"),
    Mutation("Adam without memory", "adam.weight_step", chapter="adam-kernel"),
    Mutation("The steepest step", "adam.weight_step", chapter="adam-kernel"),
    Mutation("The inner products", "adaptation.inner_products", chapter="adaptation"),
    Mutation("The inner products", "tangent.EmpiricalKernel.product", chapter="adaptation"),
    Mutation("The change and the alignment", "adaptation.compare", part=0, chapter="adaptation"),
    Mutation("The change and the alignment", "adaptation.compare", part=1, chapter="adaptation"),
    Mutation("The eigenpairs", "adaptation.leading_eigenpairs", part=0, chapter="adaptation"),
    Mutation("The eigenpairs", "adaptation.leading_eigenpairs", part=1, chapter="adaptation"),
    Mutation("The energy", "adaptation.energy", chapter="adaptation"),
    Mutation("The degrees", "adaptation.degrees_of_freedom", chapter="adaptation"),
    Mutation("The degrees", "filters.twicing_response", chapter="adaptation"),
    Mutation("The last pre-activations", "adaptation.last_preactivations", chapter="adaptation"),
    Mutation("The covariance", "adaptation.covariance_eigenpairs", part=0, chapter="adaptation"),
    Mutation("The covariance", "adaptation.covariance_eigenpairs", part=1, chapter="adaptation"),
    Mutation("The overlap of covariances", "adaptation.compare", part=1, chapter="adaptation"),
    Mutation("The frozen filter", "lanczos.KrylovFilter.apply", chapter="frozen-filter"),
    Mutation("The risk on another draw", "filters.SpectralFilter.mean_squared_error", chapter="frozen-filter"),
    Mutation("The prediction from the first output", "lanczos.KrylovFilter.apply", chapter="prediction"),
    Mutation("The best time of one eigenvector", "filters.SpectralFilter.mean_squared_error", chapter="noise-levels"),
    Mutation("The share that has come", "filters.twicing_response", chapter="iteration-counts"),
    Mutation("The trace by fan-ins", "kernels.infinite_width", part=1, chapter="depth-trained"),
    Mutation("The trace by fan-ins", "covariances.window_sums", chapter="depth-trained"),
]


@pytest.fixture(autouse=True)
def leave_no_trace(monkeypatch) -> Iterator[None]:
    """A chapter may set styles, seeds and default types; the tests after it shall not see them."""
    monkeypatch.setenv("NTKBOOK_SCALE", "quick")
    matplotlib.use("Agg")
    states = torch.get_rng_state(), np.random.get_state(), random.getstate(), torch.get_default_dtype()
    with matplotlib.rc_context():
        yield
        pyplot.close("all")
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    torch.set_default_dtype(states[3])


@pytest.mark.parametrize("chapter", CHECKED)
def test_checks_hold_after_the_setup_cells_alone(chapter):
    for failure in CHAPTERS[chapter].run_checks():
        assert failure is None


@pytest.mark.parametrize("chapter", CHECKED)
def test_a_check_cell_checks_something(chapter):
    assert all(cell.names for cell in CHAPTERS[chapter].checks)


@pytest.mark.parametrize("entry", paper.derived(), ids=lambda entry: entry.label)
def test_a_derived_equation_has_a_check_cell(entry):
    assert entry.chapter in CHAPTERS, f"book/{entry.chapter}.md is not written"
    assert any(str(entry.number) in cell.names for cell in CHAPTERS[entry.chapter].checks)


@pytest.mark.parametrize("entry", paper.derived(), ids=lambda entry: entry.label)
def test_every_derived_equation_has_a_mutation_of_its_function(entry):
    mutated = {mutation.function for mutation in MUTATIONS if mutation.equation == str(entry.number)}
    assert entry.function.removeprefix("ntkbook.") in mutated


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_check_fails_when_its_function_is_one_per_cent_off(mutation):
    assert mutation.place in CHAPTERS, f"book/{mutation.place}.md is not written"
    assert notices(CHAPTERS[mutation.place], mutation.equation, mutation.function, mutation.part, mutation.shift)


HEAD = """\
---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {display_name: Python 3, language: python, name: python3}
---
# A sample

"""
SETUP = """
import torch
from ntkbook import checks, filters
from ntkbook.filters import SpectralFilter, twicing
from ntkbook.kernels import PatchKernel, relu_affinity
W = torch.diag(torch.tensor([1.0, 0.5], dtype=torch.float64))
y = torch.ones(2, 1, dtype=torch.float64)
"""
STEPS = "z = y - (torch.eye(2) - W) @ (torch.eye(2) - W) @ y\n"


@pytest.fixture
def sample(tmp_path):
    """Write a chapter of (tags, code) cells and read it back."""

    def write(*cells: tuple[str, str]):
        blocks = [f"```{{code-cell}} ipython3\n:tags: [{tags}]\n\n{code.strip()}\n```\n" for tags, code in cells]
        path = tmp_path / "sample.md"
        path.write_text(HEAD + "\nText.\n\n".join(blocks), encoding="utf-8")
        return read_cells(path)

    return write


def test_a_good_check_holds_and_notices(sample):
    cells = sample(
        ("setup", SETUP),
        ("hide-input", "raise RuntimeError('neither setup nor check')"),
        ("check", STEPS + 'checks.identity("5", twicing(W, y, 2), z);'),
        ("check, hide-input", STEPS + 'checks.identity("6", SpectralFilter.from_matrix(W).apply(y, 2), z)'),
    )
    assert [cell.names for cell in cells.checks] == [{"5"}, {"6"}]
    assert list(cells.run_checks()) == [None, None]
    assert list(cells.run_checks("6")) == [None]
    assert notices(cells, "5", "filters.twicing")
    assert notices(cells, "6", "filters.SpectralFilter.apply")
    assert notices(cells, "6", "filters.twicing_response")
    assert list(cells.run_checks()) == [None, None]  # and nothing of it is left


@pytest.mark.parametrize(
    "check",
    [
        'checks.identity("5", W @ y, W @ y)',  # the package has no part in it
        'checks.identity("5", twicing(W, y, 2), filters.twicing(W, y, 2))',  # both sides are off
        'checks.identity("6", twicing(W, y, 2), y - (torch.eye(2) - W) @ (torch.eye(2) - W) @ y)',  # another name
    ],
)
def test_a_check_that_notices_nothing_is_found(sample, check):
    cells = sample(("setup", SETUP), ("check", check))
    assert list(cells.run_checks()) == [None]
    assert not notices(cells, "5", "filters.twicing")


def test_mutants_reach_default_arguments_and_names_imported_within_the_package(sample):
    setup = SETUP + "from ntkbook.images import to_image\nx = to_image(torch.arange(9.0).double()[:, None], 3, 3)\n"
    one = 'checks.identity("16", PatchKernel(x, 1).columns(torch.tensor([4]))[4, 0].item(), 16.0)'
    cells = sample(("setup", setup), ("check", one))
    assert list(cells.run_checks()) == [None]
    assert notices(cells, "16", "kernels.relu_affinity")
    with pytest.MonkeyPatch.context() as patch:
        mutate(patch, "images.extract_patches")
        assert kernels.extract_patches.__wrapped__ is not kernels.extract_patches
    assert not hasattr(kernels.extract_patches, "__wrapped__")
    assert PatchKernel(torch.zeros(1, 2, 2), 1).affinity is kernels.relu_affinity


def test_a_mutant_can_be_off_in_one_part_of_its_result():
    tall, small = torch.ones(4, 1).double(), torch.ones(1, 1).double()
    values, vectors = nystrom.literal_eigenpairs(tall, small)
    with pytest.MonkeyPatch.context() as patch:
        mutate(patch, "nystrom.literal_eigenpairs", part=1)
        mutated = nystrom.literal_eigenpairs(tall, small)
    assert torch.equal(mutated[0], values)
    torch.testing.assert_close(mutated[1], 1.01 * vectors)


def test_a_check_that_leans_on_another_cell_is_found(sample):
    cells = sample(("setup", SETUP), ("hide-input", STEPS), ("check", 'checks.identity("5", twicing(W, y, 2), z)'))
    with pytest.raises(NameError, match="'z' is not defined"):
        list(cells.run_checks())
    cells = sample(
        ("setup", SETUP),
        ("check", STEPS + 'checks.identity("5", twicing(W, y, 2), z)'),
        ("check", 'checks.identity("6", SpectralFilter.from_matrix(W).apply(y, 2), z)'),
    )
    with pytest.raises(NameError, match="'z' is not defined"):
        list(cells.run_checks())


def test_a_check_that_does_not_hold_is_found(sample):
    cells = sample(("setup", SETUP), ("check", 'checks.identity("5", twicing(W, y, 2), 1.01 * twicing(W, y, 2))'))
    (failure,) = cells.run_checks()
    assert isinstance(failure, CheckFailed)


def test_a_check_outside_a_check_cell_does_not_count(sample):
    cells = sample(("setup", SETUP), ("hide-cell", 'checks.identity("5", 1.0, 1.0)'))
    assert not cells.checks


def test_names_of_checks_are_read():
    source = textwrap.dedent(
        """
        checks.identity("4", a, b)
        checks.printed_fails(
            '74 and 75', a, b, at_least=0.1)
        checks.identity("footnote 2, rows", a, b)
        """
    )
    assert named_in(source) == {"4", "74", "75", "footnote 2"}
    assert named_in("filters.twicing('5')") == frozenset()
    assert filters.twicing.__defaults__ is None
