"""Golden outputs of torch.nn.LSTM and plain linear layers. Writes tiny-lstm/, tiny-lstm-labels/, tiny-mlp/ and tiny-mlp-gelu/.

torch does the arithmetic here."""

import torch
from torch import nn

from common import folder, save_json, save_tensors, settle

VOCAB, DIM, HIDDEN, LAYERS = 31, 10, 18, 2
LENGTHS = (12, 1, 7)
FEATURES = 6


class Recurrent(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, DIM)
        self.lstm = nn.LSTM(DIM, HIDDEN, LAYERS, batch_first=True)
        self.head = nn.Linear(HIDDEN, outputs)


class Perceptron(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)


def randomize(model):
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)


@torch.no_grad()
def recurrent(name, seed, outputs, **more):
    settle(seed)
    model = Recurrent(outputs).eval()
    randomize(model)
    place = folder(name)
    save_tensors(place / "model.safetensors", model.state_dict())
    numbers = dict(vocab_size=VOCAB, embedding_size=DIM, hidden_size=HIDDEN, num_layers=LAYERS)
    save_json(place / "config.json", {"model_type": "lstm", **numbers, **more})
    sequences = [torch.randint(0, VOCAB, (n,)).tolist() for n in LENGTHS]
    save_json(place / "tokens.json", {"sequences": sequences})
    out = {}
    for i, tokens in enumerate(sequences):
        states, (h, c) = model.lstm(model.embedding(torch.tensor([tokens])))
        out |= {f"hidden.{i}": states[0], f"logits.{i}": model.head(states[0]), f"h.{i}": h[:, 0], f"c.{i}": c[:, 0]}
    save_tensors(place / "outputs.safetensors", out)


@torch.no_grad()
def perceptron(name, seed, model, **more):
    settle(seed)
    randomize(model)
    place = folder(name)
    save_tensors(place / "model.safetensors", model.state_dict())
    save_json(place / "config.json", {"model_type": "mlp", "input_size": FEATURES, **more})
    x = torch.randn(5, FEATURES)
    save_tensors(place / "outputs.safetensors", {"features": x, "hidden": model.layers[:-1](x), "outputs": model.layers(x)})


def run():
    recurrent("tiny-lstm", 21, VOCAB)
    recurrent("tiny-lstm-labels", 22, 3, labels=["bad", "good", "neither"])
    two = Perceptron(nn.Linear(FEATURES, 20), nn.ReLU(), nn.Linear(20, 3))
    perceptron("tiny-mlp", 23, two, hidden_sizes=[20], activation="relu", labels=["a", "b", "c"])
    three = Perceptron(nn.Linear(FEATURES, 20), nn.GELU(), nn.Linear(20, 9), nn.GELU(), nn.Linear(9, 2))
    perceptron("tiny-mlp-gelu", 24, three, hidden_sizes=[20, 9], output_size=2, activation="gelu")
