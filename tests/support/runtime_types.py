"""Type checker that the jaxtyping import hook applies to the package while testing."""

from beartype import BeartypeConf, beartype

typechecked = beartype(
    conf=BeartypeConf(is_pep484_tower=True)
)  # an int is a float, as PEP 484 has it
