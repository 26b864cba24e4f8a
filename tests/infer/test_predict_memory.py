"""`segr1 predict` holds a few photos at a time, however many there are."""

import large_photos
import pytest

from segr1_jax.hf.tiny_policy import make_tiny_policy

BOUND_GB = 0.3
PROGRAM = """
    import dataclasses
    from small_set import GOOD, config_of
    from segr1_jax.infer import predict, responder
    from segr1_jax.training.held_out import Answerer
    answer = Answerer.__call__
    def scripted(self, prompts):
        given = {"text": GOOD, "finished": True}
        return [dataclasses.replace(each, **given) for each in answer(self, prompts)]
    patch.setattr(Answerer, "__call__", scripted)
    patch.setattr(responder, "RewardClient", lambda config: tiny_run.FakeClient(config, None))
    folder = Path(sys.argv[2])
    images = sorted(map(str, (folder / "images").iterdir()))[: int(sys.argv[4])]
    config = config_of(folder, "eval_batch=8", "rollout.max_tokens=2")
    predict.run_predict(config, folder / "policy", Path(sys.argv[3]), images=images)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_photos(tmp_path):
    make_tiny_policy(tmp_path / "policy", seed=1)
    large_photos.make_photos(tmp_path)
    small, large = (
        large_photos.peak_gb(PROGRAM, tmp_path, tmp_path / f"out_{count}", count)
        for count in (60, 300)
    )
    print(f"peak anonymous memory: {small:.2f} GB at 60 photos, {large:.2f} GB at 300")
    assert large - small < BOUND_GB
    assert len(list((tmp_path / "out_300/masks").iterdir())) == 300
