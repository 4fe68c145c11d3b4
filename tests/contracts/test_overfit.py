"""The micro recipe learns four scenes by heart: model, loss and labels fit together."""

import torch
from torch import nn

from semask import recipes
from semask.data.scenes.scene import draw_scene
from semask.evaluation.metrics import Confusion
from semask.losses.build import build_loss
from semask.models.build import build

# Without poles: they are one or two pixels wide, and even logits fitted freely at stride 4 cannot follow them. Of the
# others, those of large things are learned soonest.
SCENES = (333, 350, 763, 771)
SIZE = (96, 96)
STEPS = 160


def test_four_scenes_by_heart() -> None:
    recipe = recipes.get_recipe("scenes/semask-micro-fpn")
    scenes = [draw_scene(seed, SIZE) for seed in SCENES]
    images = torch.stack([torch.as_tensor(image).permute(2, 0, 1) for image, _ in scenes]).float() / 255
    labels = torch.stack([torch.as_tensor(label) for _, label in scenes])
    model, loss = build(recipe).train(), build_loss(recipe)
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0  # it hinders learning by heart, which is its purpose
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.optim.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=recipe.optim.lr, total_steps=STEPS)
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(model(images), labels).total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.train.clip_norm)
        optimiser.step()
        schedule.step()
    confusion = Confusion(recipe.model.num_classes)
    with torch.inference_mode():
        confusion.update(model.eval().labels(images), labels)
    assert confusion.scores().miou > 0.95
    assert all(unit.gain.item() != 0 for layer in model.encoder.semantic for unit in layer.units)
