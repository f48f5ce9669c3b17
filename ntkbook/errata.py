"""What is wrong with some of the paper's numbered equations as printed, and what in the paper depends on it.

:mod:`ntkbook.printed` has these equations as functions, exactly as printed; the chapters derive the right forms.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Erratum(NamedTuple):
    """What does not hold in an equation as printed, and what in the paper depends on it."""

    slip: str
    consequence: str


ERRATA: Mapping[int, Erratum] = MappingProxyType(
    {
        11: Erratum(
            (
                "Each layer's own term is a covariance times r^2 of that layer, so the recursion holds for equal "
                "kernel sizes only."
            ),
            (
                "The kernels of the U-Net and the autoencoder, whose last layer is 1x1, are not (11)'s; the vanilla "
                "network uses the base case alone."
            ),
        ),
        12: Erratum(
            (
                "The second layer's map A is missing, and so is the first layer's own term, which is of the order 1/c"
                " only against the last layer's."
            ),
            (
                "For a 1x1 output the map A is the identity. At c = 512 and 11x11 patches the first layer's term is "
                "41 % of the trace."
            ),
        ),
        13: Erratum(
            (
                "The sum runs over two indices; meant are pairs of pixels at the same offset in their windows, not "
                "all pairs."
            ),
            (
                "Nothing: the cited source and the paper's filters pair the offsets. All pairs would make A(xx^T) the"
                " rank-one matrix of window sums."
            ),
        ),
        18: Erratum(
            (
                "The momentum carries on the last change of the weights as if the metric H had not changed; and H holds"
                " the inverse of the root of the average, not of the average."
            ),
            (
                "Nothing is computed with it. At the second step it is off by several ten per cent, late in training"
                " by a few."
            ),
        ),
        20: Erratum(
            "As (18): the momentum should be J H_t H_(t-1)^-1 (w^t - w^(t-1)), not z^t - z^(t-1).",
            "The printed form has an error in proportion to the step, the right one in proportion to its square.",
        ),
        21: Erratum(
            (
                "No learning rate is named: weights change by the order of the rate, so O(1/c) needs a rate in"
                " proportion to 1/c."
            ),
            (
                "With a constant rate single weights move by O(1) and a c x c layer by O(c), until signs alternate. "
                "Section 6.2 gives O(c^(-1/2)) for the same weights."
            ),
        ),
        22: Erratum(
            "The sum over the channels is missing: channels of a layer share the weights below it.",
            "As for (23), whose kernel it is.",
        ),
        23: Erratum(
            (
                "Each channel is moved by the error gradients of all channels of its layer; as printed it is its own "
                "alone. In the first layer that is right, in the second with many channels, from the third on at no "
                "width."
            ),
            (
                "Nothing is computed with it. With Adam's metric the printed step is several times too long in the "
                "first step, and the text's picture of a kernel for each channel does not hold."
            ),
        ),
        29: Erratum(
            "The variance of the weights, sigma_w^2 / r^2 by Section 3.1, has lost its sigma_w^2.",
            (
                "A common factor of 2 in the first layer: relu kernels keep their shape, and the filter is scaled to "
                "a largest eigenvalue of 1 anyway."
            ),
        ),
        30: Erratum(
            "As (29), it lacks sigma_w^2; and the left side should be the first layer's.",
            "As for (29). With biases or another non-linearity it would change the filter.",
        ),
        35: Erratum(
            "The variance of the weights, sigma_w^2 / (r^2 c), is missing.",
            "Nothing: (36), which follows from the right form, is right.",
        ),
        39: Erratum(
            "The values rise to 1, by 9 pi^2 / 2 l^2 from it; they do not fall to 0 exponentially.",
            "Figure 7 and the text after (43) have the right limit. The form of the matrix holds.",
        ),
        43: Erratum(
            (
                "The mean is written with the clean image z where the noisy image y should stand, and with the "
                "inverse of a covariance that may be singular."
            ),
            "Nothing is computed with it.",
        ),
        45: Erratum(
            (
                "The last derivative should be of a^(l+1) by a_i^l; as printed it is the error gradient of the layer "
                "below."
            ),
            "(46), (47) and all that follows use the right index.",
        ),
        50: Erratum(
            "The derivative should be taken at a^l, not a^(l-1), and the weights are those of layer l+1.",
            "(47) and (51), the cases before and after, have the right indices.",
        ),
        59: Erratum(
            (
                "As (12); and since V holds sigma_w^2, which the derivative by a weight does not, c should be c r^2 /"
                " sigma_w^2."
            ),
            "The constant goes into the step. The rest as for (12).",
        ),
        61: Erratum(
            (
                "The own term lacks its factor r^2 (A divides by it), and the products of different channels below "
                "are left out."
            ),
            (
                "The factor is why (11) needs equal kernel sizes. The products of different channels vanish with many"
                " channels."
            ),
        ),
        62: Erratum(
            (
                "V' should be taken of the covariance of the layer below, as (11) has it; and as (11) it needs equal "
                "kernel sizes."
            ),
            "(11) has the right index. The filters of the tables have no hidden c x c layers; those of Figure 6 do.",
        ),
        64: Erratum(
            "The sum should be of (I - W)^k W y from k = 0; as printed it is of W^k y from k = 1.",
            "(65) and (66) have the same powers, from k = 0, and fail, too. The figures use (5) and (6), which hold.",
        ),
        65: Erratum(
            (
                "The right form is (I - W)^t z0 + (I - (I - W)^t) y; the printed one has W for I - W and an inverse "
                "that does not exist when an eigenvalue is 1."
            ),
            "Its limit is not y, which the text after (66) says it is. Nothing is computed with it.",
        ),
        66: Erratum(
            "The mean is that of (65); the covariance is right.",
            "As for (65).",
        ),
        68: Erratum(
            "sigma_w^2 is missing, and the sum has one term too many (j from 0 to c0).",
            (
                "As for (29). Its 1/c0 means a variance of 2 / (r^2 c0), not the 2 / r^2 of Section 3.1; that changes"
                " the weight of the first layer's own term."
            ),
        ),
        69: Erratum(
            (
                "The values can be negative once the first layer's own term counts: two patches that point away from "
                "each other."
            ),
            "Nothing: affinity (16), without that term, is never negative.",
        ),
        74: Erratum(
            (
                "The vectors are not orthonormal, so the closed form (6) does not hold with them; the low-rank factor"
                " has to be orthonormalised first."
            ),
            (
                "A filter by (6) with these vectors loses about 2 dB on House; iterating (5) with the low-rank matrix"
                " does not."
            ),
        ),
    }
)
