"""A configuration and a record for the tests of the store."""

from hypothesis import strategies as st

from ntkbook.configuration import Configuration
from ntkbook.records import Levels, Provenance, Record

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SETTINGS = st.dictionaries(st.text(), PLAIN, max_size=4)


def configuration(**changes) -> Configuration:
    """A configuration of the Nystrom filter on the house, with changes."""
    settings = {"columns": 300, "selection": "uniform", "seed": 0, "patch": 11}
    values = {
        "method": "nystrom",
        "image": "house",
        "noise_seed": 0,
        "sigma": 25,
        "architecture": "vanilla",
        "input": "image",
        "precision": "float32",
        "settings": settings,
    }
    return Configuration(**(values | changes))


def record(**changes) -> Record:
    """A record of that configuration, with changes of its own fields or of the configuration's."""
    own = {name: changes.pop(name) for name in tuple(changes) if name in Record.__dataclass_fields__}
    values = {
        "configuration": configuration(**changes),
        "best_psnr": 28.7,
        "best_iteration": 500,
        "curve": {1: 15.0, 30: 25.5, 500: 28.7, 3000: 23.0},
        "levels": Levels(noisy_psnr=20.2, constant_psnr=13.8),
        "seconds": 2.5,
        "provenance": Provenance(
            device="cpu",
            threads=2,
            libraries={"torch": "2.13.0", "numpy": "2.4.0", "python": "3.11.9"},
            package="0.1.0",
            commit="0123456789abcdef0123456789abcdef01234567",
            date="2025-01-31T12:00:00Z",
            platform="Linux x86_64",
        ),
        "outcome": {"sure_iteration": 450, "degrees_of_freedom": 120.25},
    }
    return Record(**(values | own))
