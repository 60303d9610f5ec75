"""Bundles that do not fit in the memory of the host or of a GPU are refused with the bucket and the way out."""

import re

import pytest

from server.memory.memory_budget import GpuBudget, GpuFootprint, HostBudget, HostFootprint, OverBudget

MIB = 2**20
PAGE = 4096


def budget(*, limit=None, process=0, prompt_cache=0, pool=0):
    return HostBudget(
        limit_bytes=limit, total_bytes=0, process_bytes=process, pool_bytes=0, prompt_cache_bytes=prompt_cache,
        pool_setting=pool,
    )  # fmt: skip


def footprint(name="a", *, weights=0, image=MIB, batch=8, texts=0, buffers=PAGE, measured=True, gpu=None):
    return HostFootprint(
        bucket=f"{batch} images of 800x1333", weights_bytes=weights, activations_bytes=image * batch + texts,
        measured=measured, buffers_bytes=buffers, gpu=gpu, name=name, batch=batch, texts_bytes=texts,
        image_buffers_bytes=PAGE,
    )  # fmt: skip


def on_gpu(name="a", *, weights=0, block=0, image=0, batch=8, limit=100 * MIB):
    return GpuFootprint(
        device="cuda:0", weights_bytes=weights, block_bytes=block, batch_bytes=image * batch, measured=True, name=name,
        bucket=f"{batch} images of 800x1333", batch=batch, limit_bytes=limit,
    )  # fmt: skip


def test_total_is_everything_that_may_be_held():
    footprints = [footprint(weights=1, image=100, batch=4, texts=7), footprint(weights=2, image=1000, batch=2)]
    held = budget(process=10, prompt_cache=20, pool=PAGE).fit(footprints)
    assert held.total_bytes == 10 + 20 + PAGE + (1 + 407) + (2 + 2000)
    assert budget(process=10, prompt_cache=20).fit([]).total_bytes == 30


def test_pool_is_sized_by_the_bundles_unless_set():
    footprints = [footprint(buffers=2 * PAGE), footprint(buffers=PAGE)]
    assert budget().fit(footprints).pool_bytes == 6 * PAGE
    assert budget(pool=MIB).fit(footprints).pool_bytes == MIB
    assert budget().fit(footprints).fit(footprints[:1]).pool_bytes == 4 * PAGE, "sized anew when the bundles change"


def test_what_fits_exactly_is_served():
    footprints = [footprint()]
    limit = budget().fit(footprints).total_bytes
    budget(limit=limit).fit(footprints)
    with pytest.raises(OverBudget):
        budget(limit=limit - 1).fit(footprints)


def test_refusal_names_bundle_bucket_parts_and_the_way_out():
    small, large = footprint("small", image=10 * MIB), footprint("large", weights=3 * MIB, image=9 * MIB, texts=MIB)
    with pytest.raises(OverBudget) as refusal:
        budget(limit=250 * MIB, process=100 * MIB, prompt_cache=50 * MIB, pool=MIB).fit([small, large])
    assert str(refusal.value) == (
        "large does not fit in host memory: 8 images of 800x1333 (measured) 73.0 MiB, its weights 3.0 MiB, bundles"
        " before it 80.0 MiB, the pool 1.0 MiB, the prompt cache 50.0 MiB, the process 100.0 MiB make 307.0 MiB, the"
        " limit is 250.0 MiB. To make room, set max_batch to 1, serve fewer bundles, lower pool_bytes or"
        " prompt_cache_bytes, or raise memory_limit_bytes"
    )


def test_batch_that_a_refusal_names_fits():
    def fit(batch):
        return budget(limit=155 * MIB, process=100 * MIB, pool=MIB).fit([footprint(image=10 * MIB, batch=batch)])

    with pytest.raises(OverBudget, match="To make room, set max_batch to 5, serve"):
        fit(8)
    fit(5)
    with pytest.raises(OverBudget):
        fit(6)


@pytest.mark.parametrize(("batch", "advice"), [(8, "lower max_batch, serve"), (1, "serve")])
def test_smaller_batch_is_advised_only_where_there_is_one(batch, advice):
    with pytest.raises(OverBudget, match=f"To make room, {advice} fewer bundles"):
        budget(limit=200 * MIB).fit([footprint(image=500 * MIB, batch=batch)])


def test_estimate_is_called_one():
    with pytest.raises(OverBudget, match=r"8 images of 800x1333 \(estimated from its inputs\) 8\.0 MiB"):
        budget(limit=1).fit([footprint(measured=False)])


def test_pool_that_holds_no_image_is_refused_with_the_least_that_does():
    with pytest.raises(OverBudget, match=f"pool_bytes=100 does not hold one image of a .*at least {PAGE}, or to 0"):
        budget(pool=100).fit([footprint()])


def test_engines_of_all_bundles_share_one_block_as_large_as_the_largest():
    footprints = [on_gpu(block=30, weights=1), on_gpu(block=50, weights=2), on_gpu(block=40, weights=4)]
    held = GpuBudget.of(footprints)
    assert (held.total_bytes, held.block_bytes) == (7 + 50, 50)
    assert GpuBudget.of([]) is None


def test_batches_on_a_gpu_take_their_images_and_weights_add_up():
    assert (
        GpuBudget.of([on_gpu(weights=100, image=3, batch=4), on_gpu(weights=10, image=5, batch=1)]).total_bytes == 127
    )


def test_bundle_that_passes_the_limit_of_its_gpu_is_named_with_its_bucket_and_the_way_out():
    fits = on_gpu("first", weights=20 * MIB, image=MIB, batch=4)
    large = on_gpu("second", weights=30 * MIB, block=20 * MIB, image=8 * MIB)
    assert GpuBudget.of([fits]).total_bytes == 24 * MIB
    with pytest.raises(OverBudget) as refusal:
        budget().fit([footprint(gpu=fits), footprint(gpu=large)])
    assert str(refusal.value) == (
        "second does not fit in cuda:0 memory: 8 images of 800x1333 (measured) 64.0 MiB, its weights 30.0 MiB, bundles"
        " before it 24.0 MiB, the scratch memory of all engines 20.0 MiB make 138.0 MiB, the limit is 100.0 MiB. To"
        " make room, set max_batch to 3, serve fewer bundles, build engines of fewer or smaller shapes, free memory of"
        " the GPU, raise gpu_memory_bytes, or set device to cpu"
    )


def test_batch_that_a_refusal_of_a_gpu_names_fits():
    with pytest.raises(OverBudget) as refusal:
        GpuBudget.of([on_gpu(weights=30 * MIB, image=9 * MIB)])
    fitting = int(re.search(r"max_batch to (\d+)", str(refusal.value))[1])
    GpuBudget.of([on_gpu(weights=30 * MIB, image=9 * MIB, batch=fitting)])
    with pytest.raises(OverBudget):
        GpuBudget.of([on_gpu(weights=30 * MIB, image=9 * MIB, batch=fitting + 1)])
    with pytest.raises(OverBudget, match="To make room, serve fewer bundles, free"):
        GpuBudget.of([on_gpu(weights=99 * MIB, image=9 * MIB, batch=1)])


def test_models_are_serialised_in_the_order_that_clients_know():
    held = budget(limit=MIB * 999).fit([footprint(gpu=on_gpu())])
    assert list(held.model_dump()) == [
        "limit_bytes", "total_bytes", "process_bytes", "pool_bytes", "prompt_cache_bytes", "gpu",
    ]  # fmt: skip
    assert list(held.gpu.model_dump()) == ["device", "limit_bytes", "total_bytes", "block_bytes"]
    assert list(footprint(gpu=on_gpu()).model_dump()) == [
        "bucket", "weights_bytes", "activations_bytes", "measured", "buffers_bytes", "gpu",
    ]  # fmt: skip
    assert list(on_gpu().model_dump()) == ["device", "weights_bytes", "block_bytes", "batch_bytes", "measured"]
