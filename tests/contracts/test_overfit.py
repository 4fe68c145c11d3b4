"""The micro recipe learns four scenes by heart: model, loss and labels fit together."""

import torch

from semask import recipes
from semask.build import build_loss, build_model
from semask.data.synthetic import draw_scene
from semask.metrics import Confusion


def test_four_scenes_by_heart() -> None:
    recipe = recipes.get("scenes/semask-micro-fpn")
    scenes = [draw_scene(seed, (64, 64)) for seed in range(4)]
    images = torch.stack([torch.as_tensor(image).permute(2, 0, 1) for image, _ in scenes]).float() / 255
    labels = torch.stack([torch.as_tensor(label) for _, label in scenes])
    model, loss = build_model(recipe).train(), build_loss(recipe.loss)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=STEPS)
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(model(images), labels).total.backward()
        optimiser.step()
        schedule.step()
    confusion = Confusion(recipe.model.num_classes)
    with torch.inference_mode():
        confusion.update(model.eval().labels(images), labels)
    assert confusion.scores().miou > 0.95
    assert all(abs(unit.gain.item()) > 0 for layer in model.encoder.semantic for unit in layer.units)


STEPS = 250
