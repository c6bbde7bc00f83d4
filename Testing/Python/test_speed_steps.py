"""Steps side by side: other projects' scripts run unchanged, a step at a time, and can repeat ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from SemiSupSegLib.learning.networks import build_network
from Testing.Benchmarks.speed import steps
from Testing.Benchmarks.speed.double import in_double
from Testing.Benchmarks.speed.peer_training import PeerTraining, Replay, Script, Setup
from Testing.Benchmarks.speed.rows import MissingPeer, Options
from Testing.Benchmarks.speed.steps_replay import Recorder, take_weights

LOADER = """
import h5py
import numpy as np
import torch
from torch.utils.data import Dataset

class RandomCrop:
    def __init__(self, output_size):
        self.output_size = output_size

    def __call__(self, image):
        return image[tuple(slice(size) for size in self.output_size)]

class Cases(Dataset):
    def __init__(self, transform):
        self.names = open("../data/train.list").read().split()
        self.transform = transform

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        file = h5py.File(f"../data/{self.names[index]}/norm.h5", "r")
        image = self.transform(file["image"][:])[None]
        return {"image": torch.from_numpy(image), "label": torch.zeros(image.shape[1:])}
"""
SCRIPT = """
import tqdm
import torch
from tensorboardX import SummaryWriter
from torch.utils.data import DataLoader
from torchvision import transforms
from loaders.cases import Cases, RandomCrop

if __name__ == "__main__":
    model, ema_model = torch.nn.Conv3d(1, 1, 1).cuda(), torch.nn.Conv3d(1, 1, 1).cuda()
    writer = SummaryWriter("log")
    trainloader = DataLoader(Cases(transforms.Compose([RandomCrop((90, 90, 90))])), batch_size=2)
    number = 0
    for epoch in tqdm.tqdm(range(9)):
        for sampled_batch in trainloader:
            volumes = sampled_batch["image"].cuda()
            loss = model(volumes).square().mean()
            noise = torch.randn_like(volumes).mean()
            size = volumes[0].numel()
            number = number + 1
            writer.add_scalar("loss", loss, number)
            if number == 7:
                raise ValueError("enough")
"""


@pytest.fixture
def script(tmp_path):
    folder = tmp_path / "Peer" / "code"
    (folder / "loaders").mkdir(parents=True)
    (folder / "loaders" / "cases.py").write_text(LOADER)
    (folder / "train.py").write_text(SCRIPT)
    variables = ("loss", "noise", "size", "number")
    return Script(
        "Peer", "https://example.org", "code/train.py", (), "loaders.cases", {"data/train.list": 4}, variables
    )


def setup(script, folder, **how):
    volumes = [(np.full((8, 8, 8), value, np.float32), np.zeros((8, 8, 8), np.uint8)) for value in (1, 2)]
    return Setup(script, script.find(folder), volumes, (4, 5, 6), 1, "cpu", **how)


def test_script_makes_a_step_of_its_own_whenever_it_is_asked(script, tmp_path):
    with PeerTraining(setup(script, tmp_path)) as peer:
        assert set(peer.weights) == {"model", "ema_model"}
        weight, bias = (float(each.item()) for each in peer.weights["model"])
        results = [peer.step() for _ in range(6)]  # an epoch has two
        with pytest.raises(RuntimeError, match="ValueError: enough"):
            peer.step()
    expected = ((weight + bias) ** 2 + (2 * weight + bias) ** 2) / 2
    assert [each[0] for each in results] == pytest.approx([expected] * 6)
    assert [each[2:] for each in results] == [[4 * 5 * 6, count] for count in range(1, 7)]


def test_script_repeats_a_step_of_ours_with_its_draws(script, tmp_path):
    image, noise = np.full((2, 1, 3, 3, 3), 3, np.float32), np.full((2, 1, 3, 3, 3), 0.25, np.float32)
    with PeerTraining(setup(script, tmp_path, replays=True, channels_last=True)) as peer:
        weight, bias = (float(each.item()) for each in peer.weights["model"])
        loss, mean, size, _ = peer.step(Replay(image, np.zeros((2, 3, 3, 3), np.int64), {"torch.randn_like": [noise]}))
    assert loss == pytest.approx((3 * weight + bias) ** 2)
    assert (mean, size) == (0.25, 27)


def test_peers_that_are_not_checked_out_cost_no_figures():
    found = list(steps.rows(Options(tiny=True)))
    assert [row.is_wrong for row in found] == [False] * len(steps.SCRIPTS)
    assert all("git clone https://github.com/" in row.note for row in found)
    with pytest.raises(MissingPeer):
        steps.SCRIPTS["sgrs"].find(None)


@pytest.fixture(params=list(steps.SCRIPTS))
def trainer(request):
    torch.manual_seed(0)
    options = Options(tiny=True)
    bench = steps.Bench(
        request.param, steps.SCRIPTS[request.param], steps._volumes(options), torch.device("cpu"), options
    )
    return bench.same_work((16, 16, 16), "float32", seed=3)


def test_recorded_step_holds_everything_that_was_drawn(trainer):
    values, replay = Recorder(trainer).step()
    assert np.isfinite(values["loss"])
    assert replay.image.shape == (4, 1, 16, 16, 16)
    assert set(np.unique(replay.label[:2])) <= {0, 1}
    noises = replay.draws["torch.randn_like"]
    assert noises[0].shape == (2, 1, 16, 16, 16)
    assert len(noises) == {"sgrs": 1, "mean_teacher": 1, "ua_mt": 5}[trainer.method.name]
    if trainer.method.name == "sgrs":
        assert [each.shape for each in replay.draws["torch.randn"]] == [(1, 16, 16, 16)] * 2
        assert len(replay.draws["numpy.random.beta"]) == 2
        assert sorted(replay.draws["numpy.random.permutation"][0]) == [0, 1]


def test_weights_are_taken_in_the_order_of_the_layers(trainer):
    torch.manual_seed(5)
    other = build_network("vnet", dimensions=3, n_classes=2, features=trainer.plan.features, norm="batch", dropout=0.5)
    decoder = [stage for pair in zip(other.upsamplings, other.decoder, strict=True) for stage in pair]
    layers = [*other.encoder, *decoder, other.classifier]
    values = [value.numpy() for layer in layers for value in layer.state_dict().values()]
    take_weights(trainer, {"model": values, "ema_model": values})
    for network in (trainer.student, trainer.teacher):
        for name, value in network.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])


def test_double_precision_reaches_what_asks_for_single():
    with in_double():
        assert torch.zeros(1, dtype=torch.float32).dtype == torch.float64
        assert torch.zeros(1).half().float().dtype == torch.float64
    assert torch.zeros(1).half().float().dtype == torch.float32
