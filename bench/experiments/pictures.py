"""How the pictures look: a colour for each norm, and what all axes have."""

COLOURS = {
    "none": "#7f7f7f",
    "BatchNorm": "#1f77b4",
    "LayerNorm": "#d9730d",
    "noisy BatchNorm": "#17a2a2",
    "masked BatchNorm": "#1f77b4",
    "padded BatchNorm": "#8fbfe0",
}


def new(panels: int):
    """A figure and its axes, side by side. Nothing is drawn on a screen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * panels, 3.8), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def band(axes, x, curves, name: str, **style) -> None:
    """The mean of several seeds' curves, and the range of all."""
    columns = list(zip(*curves, strict=True))
    colour = style.pop("color", COLOURS.get(name))
    axes.plot(x, [sum(column) / len(column) for column in columns], label=name, color=colour, **style)
    axes.fill_between(
        x, [min(column) for column in columns], [max(column) for column in columns], color=colour, alpha=0.2
    )


def finish(axes, title: str, x: str, y: str, **settings) -> None:
    axes.set(title=title, xlabel=x, ylabel=y, **settings)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
