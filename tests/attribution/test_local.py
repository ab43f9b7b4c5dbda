import warnings
from dataclasses import fields

import numpy
import pytest
import torch
from torch import nn

from lib import InputError
from lib.attribution import local
from lib.attribution.local import (
    LocalReferences,
    cached_local_references,
    local_references,
    logits_of,
    random_densities,
)

# Two clusters; the first has sub-clusters of 3 and 1 points, the second of 3 and 4.
BY_HAND = torch.tensor(
    [[0.0, 0], [0, 1], [0, 3], [10, 0], [100, 0], [100, 1], [100, 6], [120, 0], [121, 0], [122, 0], [128, 0]]
)


def by_cluster(found):
    """{cluster's centre: {member: density}}, whatever the order in which k-means found them."""
    return {
        tuple(round(value, 3) for value in centre): dict(zip(members, densities, strict=True))
        for centre, members, densities in zip(
            found.centres.tolist(), found.members.tolist(), found.densities.tolist(), strict=True
        )
    }


def blobs(sizes=((30, 12, 6), (9, 9, 18), (5, 25, 10)), seed=0):
    """Logits in three clusters of three sub-clusters each: (N, 4), and of every row its cluster and sub-cluster."""
    rng = numpy.random.default_rng(seed)
    rows, cluster, sub = [], [], []
    for c, counts in enumerate(sizes):
        for s, count in enumerate(counts):
            rows.append(rng.normal([1000 * c, 50 * s, 0, 0], 1, size=(count, 4)))
            cluster += [c] * count
            sub += [s] * count
    logits = torch.from_numpy(numpy.concatenate(rows)).float()
    return logits, torch.tensor(cluster), torch.tensor(sub)


def same(a, b):
    return all(torch.equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))


def test_members_and_densities_by_hand():
    found = by_cluster(local_references(BY_HAND, clusters=2, references=2))
    # Sub-centres (0, 4/3), (10, 0) and (100, 7/3), (122.75, 0), with the nearest of their members.
    assert found == {(2.5, 1): {1: 3 / 4, 3: 1 / 4}, (113, 1): {5: 3 / 7, 9: 4 / 7}}


def test_a_small_cluster_joins_the_nearest_centres():
    """Clusters at 0, 10 and 100 with 4, 2 and 4 members; of the second's two, 9.9 and 60, one goes to either side."""
    points = torch.tensor([[0.0], [1], [2], [3], [9.9], [60], [99], [100], [101], [102]])
    whole = local_references(points[[0, 1, 2, 3, 6, 7, 8, 9]], clusters=2, references=1, fewest=4)
    assert sorted(whole.centres.flatten().tolist()) == [1.5, 100.5]  # none is small: nothing is changed
    centres, labels = numpy.array([[1.5], [34.95], [100.5]]), numpy.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
    centres, labels = local._without_small(points.numpy(), centres, labels, 3)
    assert labels.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]  # 60 is nearer to 100.5 than to 1.5
    numpy.testing.assert_allclose(centres.flatten(), [15.9 / 5, 462 / 5], rtol=1e-6)


def test_fewer_clusters_are_left_of_a_small_training_set():
    logits, *_ = blobs(sizes=((30, 12, 6), (2, 1, 1), (5, 25, 10)))
    found = local_references(logits, clusters=3, references=3, fewest=20)
    assert len(found.centres) == len(found.members) == len(found.densities) == 2
    sizes = found.nearest(logits).bincount()
    assert sizes.sum() == len(logits) and sizes.min() >= 40
    torch.testing.assert_close(found.densities.sum(1), torch.ones(2).double())
    assert len(local_references(logits[:5], clusters=2, references=1, fewest=20).centres) == 1


@pytest.mark.parametrize("minibatch_above", [50_000, 40])
def test_separated_blobs_are_counted(minibatch_above):
    logits, cluster, sub = blobs()
    found = local_references(logits, clusters=3, references=3, minibatch_above=minibatch_above)
    for members, densities in zip(found.members, found.densities, strict=True):
        (own,) = cluster[members].unique()
        assert sorted(sub[members].tolist()) == [0, 1, 2]
        for member, density in zip(members, densities, strict=True):
            share = (sub[cluster == own] == sub[member]).double().mean()
            assert density.item() == pytest.approx(share.item())
            group = logits[(cluster == own) & (sub == sub[member])]
            distances = (group - group.mean(0)).norm(dim=1)
            assert (logits[member] - group.mean(0)).norm() <= distances.min() * (1 + 1e-5)


def test_overlapping_logits_still_give_members_of_their_own_cluster():
    logits = torch.randn(500, 10, generator=torch.Generator().manual_seed(0))
    found = local_references(logits, clusters=5, references=8)
    assert found.densities.dtype == torch.float64 and found.members.dtype == torch.long
    torch.testing.assert_close(found.densities.sum(1), torch.ones(5).double())
    assert found.members.unique().numel() == 40
    assert torch.equal(found.nearest(logits[found.members.flatten()]), torch.arange(5).repeat_interleave(8))
    # The clusters' sizes, from the densities of every cluster: each is a count.
    sizes = found.nearest(logits).bincount(minlength=5)
    counts = found.densities * sizes[:, None]
    torch.testing.assert_close(counts, counts.round())


def test_a_reference_belongs_to_its_own_sub_cluster():
    # Twenty points lie 20 from their centre, the origin; a stranger, nearest to the other sub-centre, only 12.
    shell = torch.cat([torch.eye(11)[:10], -torch.eye(11)[:10]]) * 20
    strangers = torch.linspace(12, 16, 20)[:, None] * torch.eye(11)[10]
    found = local_references(torch.cat([shell, strangers]), clusters=1, references=2, n_init=50)
    assert found.densities.tolist() == [[0.5, 0.5]]
    low, high = sorted(found.members[0].tolist())
    assert low < 20 and high in (29, 30)


def test_a_permuted_training_set_gives_the_same_images_and_densities():
    logits, *_ = blobs()
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(1))
    one = local_references(logits, clusters=3, references=3)
    two = local_references(logits[order], clusters=3, references=3)

    def chosen(found, names):
        return set(zip(names[found.members].flatten().tolist(), found.densities.flatten().tolist(), strict=True))

    assert chosen(one, torch.arange(len(logits))) == chosen(two, order)


def test_a_seed_repeats_and_the_input_is_not_changed():
    logits = torch.randn(300, 10, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    first = local_references(logits, clusters=4, references=6, seed=3)
    assert same(local_references(logits, clusters=4, references=6, seed=3), first)
    assert not same(local_references(logits, clusters=4, references=6, seed=4), first)
    assert torch.equal(logits, before)


def test_nearest_is_by_euclidean_distance_in_any_batch():
    centres = torch.tensor([[0.0, 0], [4, 0], [0, 3]])
    found = LocalReferences(
        centres, torch.tensor([[5, 6], [7, 8], [9, 1]]), torch.tensor([[0.5, 0.5], [0.1, 0.9], [1, 0]])
    )
    logits = torch.tensor([[1.9, 0], [2.1, 0], [0, 1.6], [-9, 0]])
    assert found.nearest(logits).tolist() == [0, 1, 2, 0]
    members, densities = found.of(logits)
    assert members.tolist() == [[5, 6], [7, 8], [9, 1], [5, 6]]
    torch.testing.assert_close(densities, torch.tensor([[0.5, 0.5], [0.1, 0.9], [1, 0], [0.5, 0.5]]))

    # Far from the origin ||a||² - 2ab + ||b||² would lose the difference.
    far = LocalReferences(centres + 1e4, found.members, found.densities)
    many = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) + 1e4
    expected = (many[:, None].double() - far.centres.double()).norm(dim=2).argmin(1)
    assert torch.equal(far.nearest(many), expected)
    assert torch.equal(torch.cat([far.nearest(row[None]) for row in many]), expected)


def test_a_small_cluster_is_named():
    message = (
        r"^cluster [01] of 2 has 4 members, 4 of them different, for 5 references; "
        r"give references=4 or fewer, or fewer clusters\.$"
    )
    with pytest.raises(InputError, match=message):
        local_references(BY_HAND, clusters=2, references=5)
    assert local_references(BY_HAND, clusters=2, references=4).members.shape == (2, 4)


def test_copies_of_one_image_do_not_count_as_members():
    logits = torch.cat([BY_HAND, BY_HAND[:4]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            InputError, match=r"has 8 members, 4 of them different, for 5 references; give references=4"
        ):
            local_references(logits, clusters=2, references=5)


@pytest.mark.parametrize(("count", "different"), [(2, 2), (40, 2)])
def test_fewer_logits_than_clusters_is_one_sentence(count, different):
    logits = torch.eye(2).repeat(count // 2, 1)
    message = rf"^{count} logits, {different} of them different, cannot form 3 clusters; give clusters=2 or fewer\.$"
    with pytest.raises(InputError, match=message):
        local_references(logits, clusters=3, references=1)


def test_numbers_that_leave_nothing_to_choose():
    for wrong in ({"clusters": 0, "references": 2}, {"clusters": 2, "references": 0}):
        with pytest.raises(InputError, match="is 0; give a whole number of at least 1"):
            local_references(BY_HAND, **wrong)


def test_logits_must_be_finite_rows():
    for wrong in (BY_HAND[0], BY_HAND / 0):
        with pytest.raises(InputError, match=r"must be \(images, classes\) and finite"):
            local_references(wrong, clusters=1, references=1)


def cached(tmp_path, logits=lambda: BY_HAND, **changes):
    return cached_local_references(logits, cache=tmp_path, **({"key": "k", "clusters": 2, "references": 2} | changes))


def never():
    raise AssertionError("the logits were computed although the file is there")


def test_stored_references_are_read_back_as_they_were(tmp_path):
    first = cached(tmp_path)
    assert same(first, local_references(BY_HAND, clusters=2, references=2))
    assert same(cached(tmp_path, never), first)
    assert [file.name for file in tmp_path.glob("*.npz")] == ["k-c2r2s0.npz"]


@pytest.mark.parametrize("change", [{"key": "other"}, {"clusters": 1}, {"references": 1}, {"seed": 1}])
def test_whatever_decides_the_references_has_its_own_file(tmp_path, change):
    cached(tmp_path)
    with pytest.raises(AssertionError, match="computed although"):
        cached(tmp_path, never, **change)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "incomplete", "pickled"])
def test_a_damaged_file_is_computed_again_and_said_so(tmp_path, capsys, damage):
    first = cached(tmp_path)
    (file,) = tmp_path.glob("*.npz")
    if damage in ("incomplete", "pickled"):
        numpy.savez(file, centres=numpy.array([{}]) if damage == "pickled" else numpy.zeros(2))
    else:
        file.write_bytes({"empty": b"", "cut": file.read_bytes()[:300], "text": b"not an archive"}[damage])
    assert same(cached(tmp_path), first)
    error = capsys.readouterr().err
    assert error.startswith("k-c2r2s0.npz is made again: it is damaged (") and error.endswith(")\n")
    assert same(cached(tmp_path, never), first)


def test_random_densities_sum_to_one_and_forget_the_clusters():
    densities = local_references(BY_HAND, clusters=2, references=2).densities
    random = random_densities(densities, seed=0)
    assert random.shape == densities.shape and random.dtype == densities.dtype
    torch.testing.assert_close(random.sum(1), torch.ones(2).double())
    assert torch.equal(random, random_densities(1 - densities, seed=0))
    assert not torch.equal(random, random_densities(densities, seed=1))
    many = random_densities(torch.empty(20_000, 20), seed=0)
    assert many.mean().item() == pytest.approx(1 / 20)
    # U(0, 1) over the sum of 20 of them: standard deviation about sqrt(1/12) / 10, far from that of equal weights.
    assert many.std().item() == pytest.approx(0.0289, abs=0.001)


def test_logits_of_a_model_in_any_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
    x = torch.rand(7, 3, 2, 2)
    expected = model(x).detach()
    for batch in (1, 3, 7, 256):
        found = logits_of(model, x, batch=batch)
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad
