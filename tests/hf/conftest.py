"""A Hugging Face directory with random weights."""

import pytest
from transformers_oracle import make_oracle, save_oracle


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request, tmp_path_factory):
    oracle = make_oracle(tied=request.param)
    return oracle, save_oracle(oracle, tmp_path_factory.mktemp("base"))
