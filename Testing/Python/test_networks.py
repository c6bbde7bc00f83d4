"""Networks: shapes, what each architecture promises, and that mixed precision changes little."""

from __future__ import annotations

import copy
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from SemiSupSegLib.errors import SettingsError
from SemiSupSegLib.learning import layers
from SemiSupSegLib.learning.layers import (
    CONVOLUTION,
    TRANSPOSED_CONVOLUTION,
    ConvolutionBlock,
    InstanceNorm,
    normalisation,
    with_folded_norms,
)
from SemiSupSegLib.learning.networks import NETWORKS, build_network

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = sorted(NETWORKS)
THICK_SLICES = ((1, 2, 2), (2, 2, 2))


def small(kind="unet", dimensions=2, **options):
    torch.manual_seed(0)
    options = {"n_classes": 2, "features": (4, 8, 8), **options}
    return build_network(kind, dimensions=dimensions, **options)


def image(network, size=None, batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    plan = network.plan
    spatial = size or tuple(2 * divisor for divisor in plan.divisor)
    return torch.randn(batch, plan.in_channels, *spatial, generator=generator)


def blocks_of(network):
    return [module for module in network.modules() if isinstance(module, ConvolutionBlock)]


def dropouts_of(network):
    return [module for module in network.modules() if isinstance(module, (nn.Dropout2d, nn.Dropout3d))]


def test_vnet_of_the_literature_has_its_9_45_million_parameters():
    network = build_network("vnet", dimensions=3, n_classes=2, features=16, norm="batch", dropout=0.5)
    assert network.n_parameters == 9_448_866
    assert network.plan.features == (16, 32, 64, 128, 256)
    assert network.divisor == (16, 16, 16)
    assert [dropout.p for dropout in dropouts_of(network)] == [0.5, 0.5]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_logits_have_the_size_of_the_image_and_a_channel_a_class(data):
    kind = data.draw(st.sampled_from(KINDS))
    dimensions = data.draw(st.sampled_from((2, 3)))
    strides = data.draw(
        st.lists(st.tuples(*[st.sampled_from((1, 2, 2, 3))] * dimensions), min_size=1, max_size=2).map(tuple)
    )
    network = build_network(
        kind,
        dimensions=dimensions,
        in_channels=data.draw(st.integers(1, 3)),
        n_classes=data.draw(st.integers(2, 5)),
        features=data.draw(st.integers(2, 5)),
        norm=data.draw(st.sampled_from(("instance", "group", "batch", "none"))),
        pooling_strides=strides,
    ).eval()
    size = tuple(divisor * data.draw(st.integers(1, 2)) for divisor in network.divisor)
    logits, embedding = network.forward_features(image(network, size, batch=1))
    assert logits.shape == (1, network.n_classes, *size)
    assert embedding.shape == (1, network.embedding_channels, *size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_classifier_makes_the_logits_from_the_embedding(kind, dimensions):
    network = small(kind, dimensions, dropout=0.3).eval()
    x = image(network)
    logits, embedding = network.forward_features(x)
    torch.testing.assert_close(network.classifier(embedding), logits)
    torch.testing.assert_close(network(x), logits)


@pytest.mark.parametrize("kind", KINDS)
def test_deep_supervision_classifies_each_decoder_level_at_its_resolution(kind):
    network = small(kind, 3, pooling_strides=THICK_SLICES, deep_supervision=True).eval()
    x = image(network, (4, 8, 8))
    deep = network.forward_deep(x)
    assert [tuple(logits.shape) for logits in deep] == [(2, 2, 4, 8, 8), (2, 2, 4, 4, 4)]
    torch.testing.assert_close(deep[0], network(x))


def test_without_deep_supervision_there_is_one_map_of_logits():
    network = small().eval()
    x = image(network)
    (logits,) = network.forward_deep(x)
    torch.testing.assert_close(logits, network(x))


def test_divisor_is_the_product_of_the_strides_of_an_axis():
    assert small(dimensions=3, pooling_strides=THICK_SLICES).divisor == (2, 4, 4)


@pytest.mark.parametrize("size", [(3, 4, 4), (2, 6, 4), (2, 4, 5)])
def test_size_that_cannot_be_pooled_is_refused_with_what_would_do(size):
    network = small(dimensions=3, pooling_strides=THICK_SLICES)
    with pytest.raises(SettingsError, match=r"multiples of \(2, 4, 4\)"):
        network(image(network, size))


def test_image_of_other_channels_or_axes_is_refused():
    network = small(dimensions=2)
    for x in (torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 8, 8, 8)):
        with pytest.raises(SettingsError, match="1 channel"):
            network(x)


@pytest.mark.parametrize("kind", KINDS)
def test_thick_slices_are_convolved_in_plane_until_they_are_pooled(kind):
    network = small(kind, 3, pooling_strides=THICK_SLICES)
    assert [network.plan.kernel(level) for level in range(3)] == [(1, 3, 3), (3, 3, 3), (3, 3, 3)]
    sizes = {module.kernel_size for module in network.encoder[0].modules() if isinstance(module, nn.Conv3d)}
    assert (1, 3, 3) in sizes
    assert sizes <= {(1, 3, 3), (1, 1, 1)}


def test_axis_that_is_never_pooled_is_still_convolved():
    network = small(dimensions=3, pooling_strides=((1, 2, 2), (1, 2, 2)))
    assert network.plan.kernel(0) == (3, 3, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_silent_when_predicting_and_noisy_when_training(kind):
    network = small(kind, dropout=0.5)
    x = image(network)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


def test_dropout_takes_whole_maps_of_the_coarsest_level_and_of_the_embedding():
    network = small("vnet", features=(16, 16), dropout=0.5)
    coarsest = []
    network.bottleneck_dropout.register_forward_hook(lambda module, inputs, output: coarsest.append(output))
    embedding = network.forward_features(image(network, (8, 8))).embedding
    for maps in (coarsest[0], embedding):
        n_dropped = (maps.flatten(2) == 0).all(dim=2).sum().item()
        assert 6 <= n_dropped <= 26, "about half of 2 x 16 maps"


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_everywhere_follows_each_convolution_but_not_the_output(kind):
    network = small(kind, 3, dropout=0.15, dropout_everywhere=True)
    assert len(dropouts_of(network)) == sum(any(isinstance(m, nn.Dropout3d) for m in b) for b in blocks_of(network))
    bare = [block for block in blocks_of(network) if not any(isinstance(m, nn.Dropout3d) for m in block)]
    assert all(block[0].kernel_size == (1, 1, 1) for block in bare), "only shortcuts go without"
    assert all(dropout.p == 0.15 for dropout in dropouts_of(network))


def test_no_dropout_layer_at_rate_zero():
    assert not dropouts_of(small("vnet"))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.lists(st.integers(1, 4), min_size=2, max_size=3).filter(lambda size: max(size) > 1),
    st.integers(0, 1000),
)
def test_instance_norm_in_channels_last_equals_torchs_with_its_gradients(batch, channels, size, seed):
    torch.manual_seed(seed)
    ours, theirs = (
        InstanceNorm(channels),
        {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[len(size)](channels, affine=True),
    )
    for norm in (ours, theirs):
        nn.init.constant_(norm.weight, 1.5)
        nn.init.constant_(norm.bias, -0.5)
    x = torch.randn(batch, channels, *size)
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[len(size)]
    mine = x.clone().to(memory_format=layout).requires_grad_()
    reference = x.clone().requires_grad_()
    upstream = torch.randn_like(x)
    ours(mine).backward(upstream)
    theirs(reference).backward(upstream)
    torch.testing.assert_close(ours(mine), theirs(reference), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mine.grad, reference.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad, rtol=1e-4, atol=1e-4)


def test_instance_norm_keeps_channels_last():
    x = torch.randn(2, 4, 3, 4, 5).to(memory_format=torch.channels_last_3d)
    assert InstanceNorm(4)(x).is_contiguous(memory_format=torch.channels_last_3d)


def test_instance_norm_of_a_single_voxel_is_its_bias():
    norm = InstanceNorm(2)
    nn.init.constant_(norm.bias, 0.25)
    torch.testing.assert_close(norm(torch.full((1, 2, 1, 1), 7.0)), torch.full((1, 2, 1, 1), 0.25), rtol=0, atol=1e-3)


@pytest.mark.parametrize("n_channels, groups", [(16, 2), (12, 1)])
def test_group_norm_has_eight_channels_a_group_where_they_divide(n_channels, groups):
    x = torch.randn(2, n_channels, 4, 5)
    torch.testing.assert_close(normalisation("group", 2, n_channels)(x), nn.functional.group_norm(x, groups))


def test_network_with_instance_norm_has_no_buffers_and_no_say_across_the_batch():
    network = small()
    assert not list(network.buffers())
    x = image(network, batch=3)
    torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["instance", "group", "batch", "none"])
def test_bfloat16_in_channels_last_stays_near_float32(kind, norm):
    network = small(kind, 3, norm=norm)
    x = image(network, (8, 8, 12))
    exact = network(x)
    fast = copy.deepcopy(network).to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", torch.bfloat16):
        rough = fast(x.to(memory_format=torch.channels_last_3d))
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.std()
    rough.float().square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in fast.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_folded_batch_norms_predict_the_same_with_fewer_layers(kind, dimensions):
    network = small(kind, dimensions, norm="batch")
    for _ in range(3):
        network(image(network, batch=4))  # running means and variances become those of something
    network.eval()
    x = image(network)
    with torch.inference_mode():
        folded = with_folded_norms(network)
        torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-5)
    kinds = (nn.BatchNorm2d, nn.BatchNorm3d)
    assert not any(isinstance(module, kinds) for module in folded.modules())
    assert any(isinstance(module, kinds) for module in network.modules())


@pytest.mark.parametrize("dimensions, stride", [(3, (1, 2, 2)), (3, (2, 2, 2)), (2, (2, 2))])
def test_transposed_convolution_equals_torchs_with_its_gradients(dimensions, stride):
    torch.manual_seed(0)
    ours = TRANSPOSED_CONVOLUTION[dimensions](5, 3, stride, stride)
    torchs = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dimensions](5, 3, stride, stride)
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, *range(3, 3 + dimensions))
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    results = [layer(each) for layer, each in zip((ours, torchs), inputs, strict=True)]
    torch.testing.assert_close(*results)
    for result in results:
        result.square().sum().backward()
    torch.testing.assert_close(*(each.grad for each in inputs))
    for name in ("weight", "bias"):
        torch.testing.assert_close(*(getattr(layer, name).grad for layer in (ours, torchs)))
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16


@pytest.mark.parametrize("shape, stride", [((2, 4, 4), 1), ((1, 1, 1), 2), ((1, 1), 2)])
def test_bfloat16_gradient_of_thin_maps_is_that_of_float32(shape, stride):
    torch.manual_seed(0)
    convolution = CONVOLUTION[len(shape)](32, 32, 3, padding=1, stride=stride)
    x = torch.randn(4, 32, *shape)
    convolution(x).square().sum().backward()
    exact = convolution.weight.grad.clone()
    for _ in range(20):
        freed = [torch.full((size,), float("nan"), dtype=torch.bfloat16) for size in (1000, 10_000, exact.numel())]
        del freed  # What reads memory that it never wrote, finds this.
        convolution.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            result = convolution(x)
        assert result.dtype == torch.bfloat16
        result.float().square().sum().backward()
        torch.testing.assert_close(convolution.weight.grad, exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))


def test_thin_maps_are_known_in_autocast_of_torch_before_2_4_too(monkeypatch):
    class OldTorch:
        """torch with the names for autocast that it had then, and without today's."""

        is_autocast_cpu_enabled = staticmethod(lambda: torch.is_autocast_enabled("cpu"))
        get_autocast_cpu_dtype = staticmethod(lambda: torch.get_autocast_dtype("cpu"))

        def __getattr__(self, name):
            if name in ("is_autocast_enabled", "get_autocast_dtype"):
                raise AttributeError(name)
            return getattr(torch, name)

    monkeypatch.setattr(layers, "torch", OldTorch())
    convolution, x = CONVOLUTION[3](2, 2, 1), torch.ones(1, 2, 2, 4, 4)
    assert convolution(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(x).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_takes_part(kind):
    network = small(kind, 3, deep_supervision=True)
    sum(logits.square().mean() for logits in network.forward_deep(image(network, (8, 8, 8)))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_weights_have_hes_variance_and_biases_are_zero():
    network = small("vnet", 3, features=(16, 32, 64))
    block = blocks_of(network.encoder[2])[-1][0]
    assert block.weight.std().item() == pytest.approx(sqrt(2 / (64 * 27)), rel=0.03)
    upsampling = network.upsamplings[0][0]
    assert upsampling.weight.std().item() == pytest.approx(sqrt(2 / 64), rel=0.03)
    assert not block.bias.any()


def test_equal_seeds_give_equal_weights_that_load_into_a_twin():
    one, same = small("residual_unet"), small("residual_unet")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    torch.manual_seed(7)
    other = build_network("residual_unet", dimensions=2, n_classes=2, features=(4, 8, 8))
    x = image(one)
    assert not torch.equal(other(x), one(x))
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(x), one(x))


@pytest.mark.parametrize("kind", KINDS)
def test_network_learns_what_depends_on_the_neighbourhood(kind):
    network = small(kind, features=(8, 16), norm="instance")
    x = image(network, (16, 16), batch=4)
    blurred = nn.functional.avg_pool2d(x, 5, stride=1, padding=2)
    target = (blurred[:, 0] > 0).long()
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), target).backward()
        optimiser.step()
    assert (network(x).argmax(1) == target).float().mean() > 0.93


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "transformer"},
        {"dimensions": 4},
        {"in_channels": 0},
        {"n_classes": 1},
        {"norm": "layer"},
        {"dropout": 1.0},
        {"features": (8,)},
        {"features": (8, 0)},
        {"features": (8, 8, 8), "pooling_strides": ((2, 2),)},
        {"pooling_strides": ((2, 2, 2),)},
        {"pooling_strides": ((2, 0),)},
    ],
    ids=str,
)
def test_setting_out_of_range_is_refused(wrong):
    with pytest.raises(SettingsError):
        build_network(**{"kind": "unet", "dimensions": 2, "n_classes": 2, **wrong})


def test_features_double_up_to_a_limit():
    unet = build_network("unet", dimensions=2, n_classes=2, features=2, pooling_strides=((2, 2),) * 3)
    assert unet.plan.features == (2, 4, 8, 16)
    wide = build_network("unet", dimensions=3, n_classes=2, features=200, pooling_strides=((2, 2, 2),))
    assert wide.plan.features == (200, 320)
